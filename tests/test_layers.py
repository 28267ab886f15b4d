"""Imports go down or stay in their layer, tests mirror the package, and what needs no cluster imports none."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the bottom up; what stands in one line is one layer (docs/architecture.md).
LAYERS = (
    "errors randomness runs plugins machine",
    "config",
    "data models attacks objectives allocators",
    "queue observe evaluation report",
    "workers",
    "trainer",
    "engines",
    "engines.ray",
    "commands",
    "lab",
    "cli",
)
HEIGHT = {name: height for height, layer in enumerate(LAYERS) for name in layer.split()}
TOP = len(LAYERS)
FACES = {"sparring", "sparring.__main__"}  # what a user imports or runs: above everything


def modules(folder: str) -> Iterator[tuple[str, Path]]:
    for path in sorted((ROOT / folder).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imported(path: Path) -> Iterator[str]:
    """Modules of the package that a file names, also within functions and for types alone."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = "." * node.level + (node.module or "")
            yield from (f"{start}{'.' * bool(node.module)}{each.name}" for each in node.names)


def height_of(module: str) -> int | None:
    """The layer of a module of the package; of a face, or what a user imports from it, the highest; None: no part."""
    parts = module.split(".")
    if parts[0] != "sparring":
        return None
    return HEIGHT.get(".".join(parts[1:3]), HEIGHT.get(parts[1], TOP) if len(parts) > 1 else TOP)


def test_every_module_has_a_layer() -> None:
    assert [name for name, _ in modules("sparring") if name not in FACES and height_of(name) == TOP] == []


def test_no_import_goes_up() -> None:
    upwards = [
        f"{name} imports {found}"
        for name, path in modules("sparring")
        if name not in FACES
        for found in imported(path)
        if goes_up(name, found)
    ]
    assert upwards == []


def goes_up(module: str, found: str) -> bool:
    """Whether an import is of a higher layer; one that is relative does not say which it is of, and counts too."""
    height, target = height_of(module), height_of(found)
    return found.startswith(".") or (target is not None and height is not None and target > height)


@pytest.mark.parametrize(
    ("source", "up"),
    [
        ("from sparring import train", True),
        ("import sparring", True),
        ("from sparring import plugins", False),
        ("from . import cli", True),
        ("from ..lab import study", True),
        ("def later():\n    from sparring.commands.train import train", True),
        ("import torch\nfrom sparring.errors import UsageError", False),
    ],
)
def test_an_import_that_goes_up_is_found_in_every_form(source: str, up: bool, tmp_path: Path) -> None:
    (file := tmp_path / "module.py").write_text(source)
    assert any(goes_up("sparring.data.reading", found) for found in imported(file)) is up


def test_every_module_has_a_test_file_that_mirrors_it() -> None:
    def mirror(path: Path) -> Path:
        inside = path.relative_to(ROOT / "sparring")
        return ROOT / "tests" / inside.with_name(f"test_{inside.name}")

    bare = [name for name, path in modules("sparring") if path.name != "__init__.py" and not mirror(path).exists()]
    assert bare == []


def test_architecture_page_names_every_module() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"^\| `([\w/]+\.py)` \|", page, re.MULTILINE))
    there = {str(path.relative_to(ROOT / "sparring")) for _, path in modules("sparring")}
    assert named == {name for name in there if not Path(name).name.startswith("__")}


def test_no_test_module_imports_another() -> None:
    def is_test(module: str) -> bool:
        return any(part.startswith("test_") for part in module.split("."))

    crossing = [
        f"{name} imports {found}"
        for name, path in modules("tests")
        for found in imported(path)
        if found.startswith("tests.") and is_test(found)
    ]
    assert crossing == []


@pytest.mark.parametrize(
    "commands", [["explain"], ["train --engine sync --train.max_steps 1 --run.name made", "evaluate runs/made"]]
)
def test_what_needs_no_cluster_imports_neither_ray_nor_redis_nor_torchs_compiler(
    commands: list[str], tmp_path: Path
) -> None:
    code = (
        "import sys; from sparring.cli import main; sys.argv = ['sparring', *sys.argv[1:]]\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "found = {'ray', 'redis', 'torch._dynamo'} & sys.modules.keys()\n"
        "assert not found, found\n"
    )
    cheap = ["--evaluation.samples", "5", "--evaluation.steps", "1", "--evaluation.restarts", "1"]
    for command in commands:
        words = [*command.split(), *(cheap if command != "explain" else [])]
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
