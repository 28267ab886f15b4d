"""The page of the tour: examples/tour.py is run, and its cells stand on the page with their outputs."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

NOTEBOOK = Path(__file__).parents[1] / "examples" / "tour.py"
PAGE = "docs/tour"


def run(notebook: Path) -> list[dict[str, Any]]:
    """The cells of a marimo notebook with their outputs, in Jupyter's format.

    Raises:
        CalledProcessError: a cell failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "notebook.ipynb")
        command = [sys.executable, "-m", "marimo", "export", "ipynb", str(notebook), "--include-outputs"]
        subprocess.run([*command, "--output", str(out)], check=True, stdout=subprocess.DEVNULL)
        found: list[dict[str, Any]] = json.loads(out.read_text())["cells"]
        return found


def markdown(cells: list[dict[str, Any]]) -> str:
    """The cells as a page of MyST: text, code, and outputs that are text or pictures."""
    return "\n\n".join(part for cell in cells for part in _parts(cell))


def _parts(cell: dict[str, Any]) -> list[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return [source]
    return [f"```python\n{source}\n```", *(_output(each["data"]) for each in cell["outputs"])]


def _output(data: dict[str, Any]) -> str:
    if "image/png" in data:
        return f'<img alt="What the code above draws" src="data:image/png;base64,{data["image/png"].strip()}">'
    return "".join(data["text/markdown"])


def _add(app: Sphinx, page: str, source: list[str]) -> None:
    if page == PAGE:
        app.env.note_dependency(str(NOTEBOOK))
        source[0] += "\n\n" + markdown(run(NOTEBOOK))


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("source-read", _add)
    return {"parallel_read_safe": True}
