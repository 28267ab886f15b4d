"""Links: to the repository, or downloads, for files that no page shows; a link to nothing fails the build."""

from __future__ import annotations

import os
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from docutils import nodes
from sphinx.addnodes import download_reference
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.transforms import SphinxTransform

LOADED = {"img": "src", "script": "src", "link": "href", "object": "data", "iframe": "src", "source": "src"}


class RepositoryLinks(SphinxTransform):
    """A file becomes a link into `repository` where that is set, else a download; a folder a link, or mere text."""

    default_priority = 500

    def apply(self, **kwargs: Any) -> None:
        for node in list(self.document.findall(download_reference)):
            if self.config.repository:
                self._replace(node, node["reftarget"])
        for node in list(self.document.findall(nodes.reference)):
            target = node.get("refid", node.get("refuri", "").removeprefix("#"))
            if target.startswith(("./", "../")) and self._path(target).is_dir():
                self._replace(node, target)

    def _path(self, target: str) -> Path:
        return Path(os.path.normpath(Path(self.env.doc2path(self.env.docname)).parent / target))

    def _replace(self, node: nodes.Element, target: str) -> None:
        if not self.config.repository:
            node.replace_self(node.children)
            return
        path = self._path(target)
        kind, place = "tree" if path.is_dir() else "blob", path.relative_to(self.env.srcdir).as_posix()
        link = nodes.reference(refuri=f"{self.config.repository}/{kind}/main/{place}", internal=False)
        link += node.children
        node.replace_self(link)


class Page(HTMLParser):
    """What a page refers to: its title, its ids, its links, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.title, self.ids, self.links, self.loads = "", set[str](), list[str](), list[str]()
        self._in_head_title = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self._in_head_title = tag == "title" and not self.title
        self.ids |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if LOADED.get(tag) in found and found.get("rel") != "canonical":
            self.loads.append(found[LOADED[tag]])

    def handle_data(self, data: str) -> None:
        if self._in_head_title:
            self.title += data.strip()


def faults(site: Path) -> list[str]:
    """Links and anchors that lead nowhere, what a page would load from a network, and titles that two pages share."""
    pages = {path.resolve(): Page(path.read_text()) for path in sorted(site.rglob("*.html"))}
    found = [fault for path, page in pages.items() for fault in _faults(path, page, pages)]
    titles = [page.title for page in pages.values()]
    return found + [
        f"{path}: another page has its title" for path, page in pages.items() if titles.count(page.title) > 1
    ]


def _faults(path: Path, page: Page, pages: dict[Path, Page]) -> list[str]:
    outside = [
        target for target in page.loads if urlsplit(target).scheme not in ("", "data") or target.startswith("//")
    ]
    nowhere = [target for target in page.links + page.loads if not _leads_somewhere(path, target, pages)]
    return [f"{path}: loads {target}" for target in outside] + [f"{path}: no such {target}" for target in nowhere]


def _leads_somewhere(path: Path, target: str, pages: dict[Path, Page]) -> bool:
    parts = urlsplit(target)
    if parts.scheme or parts.netloc:
        return True
    file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    anchor = unquote(parts.fragment)
    return file.is_file() and (not anchor or file not in pages or anchor in pages[file].ids)


def _check(app: Sphinx, exception: Exception | None) -> None:
    found = [] if exception else faults(Path(app.outdir))
    if found:
        raise ExtensionError("\n".join(found))


def _own_sources(app: Sphinx) -> list[Any]:
    """viewcode lists builtins, whose source it has not, because an alias like State is a dict."""
    modules = getattr(app.env, "_viewcode_modules", {})
    for name in [name for name in modules if not name.startswith("sparring")]:
        del modules[name]
    return []


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_config_value("repository", "", "env", str)
    app.add_post_transform(RepositoryLinks)
    app.connect("html-collect-pages", _own_sources, priority=400)
    app.connect("build-finished", _check, priority=900)
    return {"parallel_read_safe": True}
