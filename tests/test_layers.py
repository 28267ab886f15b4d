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
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from (f"{node.module}.{each.name}" for each in node.names)


def height_of(module: str) -> int | None:
    """The layer of a module of the package; None: it is none, or a face."""
    parts = module.split(".")
    if parts[0] != "sparring" or len(parts) == 1 or parts[1].startswith("__"):
        return None
    return HEIGHT.get(".".join(parts[1:3]), HEIGHT.get(parts[1]))


def test_every_module_has_a_layer() -> None:
    assert [name for name, _ in modules("sparring") if name not in FACES and height_of(name) is None] == []


def test_no_import_goes_up() -> None:
    upwards = [
        f"{name} imports {found}"
        for name, path in modules("sparring")
        if name not in FACES
        for found in imported(path)
        if (target := height_of(found)) is not None and target > (height_of(name) or 0)
    ]
    assert upwards == []


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
