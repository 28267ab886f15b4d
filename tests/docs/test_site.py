"""The site builds without a warning, holds every page and every public name, and loads nothing from a network."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest

from tests.support.browser import CHROMIUM, browser
from tests.support.examples import ROOT
from website.conf import navigation
from website.docstrings import with_code
from website.links import Page, faults
from website.tour import markdown

pytestmark = pytest.mark.xdist_group("site")
MODULES = ("sparring", "sparring.attacks", "sparring.objectives", "sparring.allocators")
WIDTHS = (390, 1440)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `make docs` builds it, without a repository to link to."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going", "-c", "website"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "REPOSITORY": ""}
    done = subprocess.run(
        [*command, "-d", str(out / "doctrees"), ".", str(out / "html")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return out / "html"


def test_no_link_leads_nowhere_and_nothing_is_loaded_from_a_network(site: Path) -> None:
    assert faults(site) == []


def test_every_page_of_the_docs_is_in_the_navigation_once(site: Path) -> None:
    pages = [page for group in navigation.values() for page in group]
    expected = {str(path.relative_to(ROOT).with_suffix("")) for path in (ROOT / "docs").rglob("*.md")}
    assert len(pages) == len(set(pages)) and expected <= set(pages)
    linked = Page((site / "README.html").read_text()).links
    assert [page for page in pages if f"{page}.html" not in linked] == []


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    ids = set().union(*(Page(path.read_text()).ids for path in (site / "website" / "api").glob("*.html")))
    public = {f"{name}.{each}" for name in MODULES for each in importlib.import_module(name).__all__}
    assert public - ids == set()


def test_the_home_page_is_found_under_index(site: Path) -> None:
    assert "url=README.html" in (site / "index.html").read_text()


def test_the_tour_has_its_pictures_and_figures(site: Path) -> None:
    page = (site / "docs" / "tour.html").read_text()
    assert page.count('src="data:image/png;base64,') == 2
    cells = [unescape(cell) for cell in re.findall(r"<td[^>]*><p>([^<]*)</p></td>", page)]
    rows = {(network, attack): row for network, attack, *row in zip(*[iter(cells)] * 5, strict=True)}
    assert set(rows) == {(network, attack) for network in ("plain", "robust") for attack in ("PGD", "AutoAttack")}
    assert [rows["robust", attack][0] for attack in ("PGD", "AutoAttack")] == ["360", "100"]
    for attack in ("PGD", "AutoAttack"):
        (plain, _, most), (robust, least, _) = (
            [float(each) for each in re.findall(r"([\d.]+)%", rows[network, attack][2])]
            for network in ("plain", "robust")
        )
        assert plain <= most < least <= robust


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_pages_fit_the_screen_without_complaint(site: Path, tmp_path: Path) -> None:
    with browser(tmp_path) as opened:
        for page in ("README", "docs/results", "docs/configuration", "docs/tour", "website/api/attacks"):
            for width, dark in zip(WIDTHS, (True, False), strict=True):
                opened.show(site / f"{page}.html", width, dark=dark)
                assert opened.value("document.documentElement.scrollWidth") <= width
        assert opened.complaints == []
        opened.call("Page.navigate", url=(site / "search.html").as_uri() + "?q=staleness")
        opened.until("document.querySelectorAll('ul.search li').length > 0")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('<a href="gone.html">', "no such gone.html"),
        ('<a href="other.html#gone">', "no such other.html#gone"),
        ('<a href="#gone">', "no such #gone"),
        ('<img src="gone.png">', "no such gone.png"),
        ('<script src="https://cdn.example.org/a.js"></script>', "loads https://cdn.example.org/a.js"),
        ('<link rel="stylesheet" href="//fonts.example.org/a.css">', "loads //fonts.example.org/a.css"),
        ("<title>Other</title>", "another page has its title"),
    ],
)
def test_a_fault_of_a_page_is_found(text: str, fault: str, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(text)
    (tmp_path / "other.html").write_text('<title>Other</title><p id="here"><a href="other.html#here">')
    assert f"{(tmp_path / 'page.html').resolve()}: {fault}" in faults(tmp_path)


def test_an_indented_block_of_a_docstring_is_code_and_an_argument_is_none() -> None:
    block = ["    a = 1", "    b = 2"]
    assert with_code(["Such as:", "", *block]) == ["Such as:", "", ".. code-block:: python", "", *block]
    arguments = ["Text.", "", "Args:", "    x: one", "", "    y: two"]
    assert with_code(arguments) == arguments


def test_the_cells_of_a_notebook_become_text_code_and_outputs() -> None:
    outputs = [{"data": {"text/markdown": ["a", "b"]}}, {"data": {"image/png": "AAAA\n"}}]
    code = {"cell_type": "code", "source": ["x = 1"], "outputs": outputs}
    made = markdown([{"cell_type": "markdown", "source": ["## Look"]}, code])
    assert made.startswith("## Look\n\n```python\nx = 1\n```\n\nab\n\n<img ") and "base64,AAAA" in made
