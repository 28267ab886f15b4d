"""Our docstrings as Sphinx reads them: indented blocks are code, and types are found under their public names."""

from __future__ import annotations

from typing import Any

from docutils.nodes import Element, TextElement
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment


def with_code(lines: list[str]) -> list[str]:
    """A block that is indented below a paragraph is code, as in Markdown; below `Args:` there is no empty line."""
    made: list[str] = []
    paragraph = ""
    for line in lines:
        if line.startswith("    ") and made and not made[-1] and not paragraph.startswith(" "):
            made += [".. code-block:: python", ""]
        made.append(line)
        paragraph = line or paragraph
    return made


def _read(app: Sphinx, what: str, name: str, found: Any, options: Any, lines: list[str]) -> None:
    lines[:] = with_code(lines)
    if what == "property":
        lines.insert(0, "")  # else what stands before a colon is taken for its type


def _skip(app: Sphinx, what: str, name: str, found: Any, skip: bool, options: Any) -> bool | None:
    """Fields of a named tuple say nothing that its signature does not."""
    return True if str(getattr(found, "__doc__", "")).startswith("Alias for field number") else None


def _find(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: TextElement) -> Element | None:
    """A type is defined in one module and documented where users import it from."""
    if node.get("refdomain") != "py" or not str(node["reftarget"]).startswith("sparring."):
        return None
    domain = env.domains.python_domain
    public = [name for name in domain.objects if name.rpartition(".")[2] == node["reftarget"].rpartition(".")[2]]
    if len(public) != 1:
        return None
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", public[0], node, content)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", _read, priority=400)
    app.connect("autodoc-skip-member", _skip)
    app.connect("missing-reference", _find)
    return {"parallel_read_safe": True}
