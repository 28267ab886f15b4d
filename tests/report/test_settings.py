"""Settings with differences marked, the environment, and the commands that make the runs again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sparring.report.records import read_records
from sparring.report.settings import commands_section, environment_section, settings_section
from tests.support.reported import recorded


def test_of_one_run_what_is_not_the_default_is_marked(tmp_path: Path) -> None:
    found = settings_section([read_records(recorded(tmp_path, attack={"steps": 3}), "mine")])
    assert [row.cells[:2] for row in found.tables[0].rows] == [("attack.steps", "3")]
    assert len(found.tables[1].rows) > 100 and found.files[0][0] == "mine: config.toml"


def test_of_several_runs_what_differs_is_marked(tmp_path: Path) -> None:
    runs = [read_records(recorded(tmp_path, f"run-{n}", attack={"steps": n}), f"run-{n}") for n in (3, 4)]
    found = settings_section(runs)
    assert [(row.cells, row.marked) for row in found.tables[0].rows] == [(("attack.steps", "3", "4"), True)]


def test_where_nothing_differs_it_says_so(tmp_path: Path) -> None:
    runs = [read_records(recorded(tmp_path, name), name) for name in ("a", "b")]
    for some, said in ((runs[:1], "Every setting has its default."), (runs, "All runs have the same settings.")):
        found = settings_section(some)
        assert found.notes == (said,) and [table.caption for table in found.tables] == ["All settings"]


def test_settings_that_cannot_be_read_are_said(tmp_path: Path) -> None:
    records = replace(read_records(recorded(tmp_path), "mine"), settings={})
    assert settings_section([records]).notes == ("mine: its settings cannot be read.",)


def test_the_environment_and_the_data(tmp_path: Path) -> None:
    records = read_records(recorded(tmp_path), "mine")
    where, data = environment_section([records]).tables
    assert "packages.torch" in [row.cells[0] for row in where.rows]
    assert ("classes", "10") in [row.cells for row in data.rows]
    assert environment_section([replace(records, environment={}, data={})]).notes == ("mine has no environment.json.",)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"settings": {"model.name": "python:Net"}}, "passed from Python"),
        ({"sources": ("/a/net.py",)}, "/a/net.py"),
        ({"phases": ({},)}, "made longer by a resume"),
    ],
)
def test_what_the_commands_cannot_do_is_said(tmp_path: Path, change: dict[str, object], said: str) -> None:
    records = replace(read_records(recorded(tmp_path), "mine"), **change)  # type: ignore[arg-type]
    assert said in " ".join(commands_section([records], "sparring report").notes)


def test_the_commands_name_versions_and_a_new_folder(tmp_path: Path) -> None:
    found = commands_section([read_records(recorded(tmp_path), "mine")], "sparring report RUN")
    assert "torch==" in found.commands[0][1] and "+cpu" not in found.commands[0][1]
    assert found.commands[0][1].endswith("sparring train recipe.toml --run.name made-again")
    assert found.commands[-1] == ("This report", "sparring report RUN")
