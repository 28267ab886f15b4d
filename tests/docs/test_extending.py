"""docs/extending.md: its blocks run as they stand, and its table is that of the code."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sparring.config import NAMED
from tests.support.examples import ROOT
from tests.support.pages import blocks_by_section, run_block

PAGE = ROOT / "docs" / "extending.md"
SECTIONS = blocks_by_section(PAGE)
WITH_RUNS = [heading for heading, blocks in SECTIONS.items() if any(block.language == "sh" for block in blocks)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty one, in which modules are found as at a prompt."""
    before, modules = torch.get_num_threads(), set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    torch.set_num_threads(before)
    for name in set(sys.modules) - modules:
        if (tmp_path / f"{name}.py").exists():
            del sys.modules[name]


@pytest.mark.parametrize("heading", WITH_RUNS)
def test_the_blocks_of_a_section_run_as_they_stand(heading: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipes = [block for each in ("", "Names and options") for block in SECTIONS[each]]
    for block in [*recipes, *SECTIONS[heading]]:
        run_block(block, monkeypatch)
    runs = [path for path in (folder / "runs").iterdir() if (path / "summary.json").is_file()]
    commands = "".join(block.text for block in SECTIONS[heading] if block.language == "sh").count("sparring train")
    assert len(runs) == commands


def test_every_kind_has_a_row_and_a_section_that_runs() -> None:
    rows = re.findall(r"^\| \[(\w+)\]\(#(\w+)\) \| `(\w+)\.name` \|", PAGE.read_text(), re.MULTILINE)
    assert {setting for _, _, setting in rows} == set(NAMED)
    assert [kind.capitalize() for kind, _, _ in rows] == WITH_RUNS


def test_every_example_is_linked_and_short() -> None:
    examples = [path for path in (ROOT / "examples").glob("*.py") if path.name not in ("__init__.py", "tour.py")]
    linked = set(re.findall(r"\]\(\.\./examples/(\w+\.py)\)", PAGE.read_text()))
    assert linked == {path.name for path in examples}
    assert [path.name for path in examples if len(path.read_text().splitlines()) >= 60] == []
