"""The order of the pages: README.md carries it in the site, and nothing of it in the repository."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

HOME = (
    '<!doctype html><meta charset="utf-8"><title>Home</title><meta http-equiv="refresh" content="0; url={home}.html">'
)


def trees(navigation: dict[str, list[str]]) -> str:
    """Sphinx's directives for captions with their pages."""
    return "".join(
        f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(f"/{page}" for page in pages) + "\n```\n"
        for caption, pages in navigation.items()
    )


def _add(app: Sphinx, page: str, source: list[str]) -> None:
    if page == app.config.root_doc:
        source[0] += trees(app.config.navigation)


def _lead_home(app: Sphinx, exception: Exception | None) -> None:
    if exception is None:
        Path(app.outdir, "index.html").write_text(HOME.format(home=app.config.root_doc))


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_config_value("navigation", {}, "env")
    app.connect("source-read", _add)
    app.connect("build-finished", _lead_home)
    return {"parallel_read_safe": True}
