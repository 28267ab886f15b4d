"""A report in a real browser: no complaints, every chart and picture; on a phone, on a desktop, without scripts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sparring.commands.report import FILE, report_runs
from sparring.commands.train import train
from sparring.config import from_tree, new_run
from sparring.errors import UsageError
from sparring.report import charts
from sparring.runs import Run, open_run
from tests.support.browser import CHROMIUM, browser
from tests.support.reported import CURVES, EVALUATION, recorded
from tests.support.runs import small

MOST_BYTES = 3_000_000
DRAWN = (
    "[...document.querySelectorAll('.plot')].filter(plot => plot.clientWidth).every(plot => plot.querySelector('svg'))"
)
INSIDE = "[...document.querySelectorAll('.plot svg')].every(svg => svg.clientWidth <= svg.parentNode.clientWidth)"
PICTURES = "[...document.images].every(image => image.complete && image.naturalWidth > 0 && image.alt)"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A real run with a name that tries to be HTML, and every record."""
    root = tmp_path_factory.mktemp("runs")
    made = train(small(root, engine="sync", train={"max_steps": 6}, allocator={"name": "bullettrain"})).run
    found = open_run(Path(shutil.copytree(made.path, root / "a<img src=x onerror=alert(1)>")))
    found.write_json("curves.json", CURVES)
    found.write_json("evaluation.json", EVALUATION)
    return found


@pytest.fixture(scope="module")
def page(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("altair")
    pytest.importorskip("vl_convert")
    return report_runs([run], tmp_path_factory.mktemp("pages") / "page.html")


def test_it_is_one_file_of_moderate_size_without_addresses_to_load(page: Path) -> None:
    text = page.read_text()
    assert len(text.encode()) < MOST_BYTES and "<img src=x" not in text
    assert "https://cdn" not in text and '<link rel="stylesheet"' not in text and "<script src" not in text


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.timeout(120)
def test_a_browser_shows_all_of_it(page: Path, tmp_path: Path) -> None:
    with browser(tmp_path / "profile") as opened:
        for width, dark in ((390, True), (1440, False)):
            opened.show(page, width, dark=dark)
            opened.until(DRAWN)
            assert opened.value("document.documentElement.scrollWidth") <= width
            assert opened.value("document.querySelectorAll('.plot svg').length") >= 6
            assert opened.value("document.querySelectorAll('.gallery img').length") >= 3 * 2
            assert opened.value(PICTURES)
            assert opened.value(INSIDE)
        opened.value("document.querySelector('input[value=seconds]').click()")
        opened.until("document.querySelector('[data-along=seconds] svg') !== null && " + DRAWN)
        assert opened.value("document.querySelector('[data-along=step]').clientWidth") == 0
        assert opened.complaints == []
        opened.show(page, 390, scripts=False)
        assert opened.value("document.querySelectorAll('.still svg').length") >= 10
        assert opened.value("document.documentElement.scrollWidth") <= 390


def test_runs_side_by_side_are_shown_the_same_images(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "installed", lambda: False)
    other = open_run(Path(shutil.copytree(run.path, tmp_path / "other")))
    text = report_runs([run, other], tmp_path / "both.html").read_text()
    assert "The same" in text and text.count("test image") % 2 == 0 and "other" in text


def test_a_run_that_has_not_begun_gives_a_report_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "installed", lambda: False)
    run = new_run(from_tree({"run": {"root": str(tmp_path), "name": "new"}}))
    file = report_runs([run])
    assert file == run.path / FILE and "has no gallery: " in file.read_text()
    assert "metrics.jsonl has no lines" in file.read_text()


def test_without_a_gallery_no_weights_are_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "installed", lambda: False)
    notes: list[str] = []
    file = report_runs([recorded(tmp_path)], tmp_path / "page.html", gallery=False, progress=notes.append)
    assert 'id="gallery"' not in file.read_text() and notes == ["drawing the charts"]


def test_a_run_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    run = recorded(tmp_path)
    with pytest.raises(UsageError, match="given twice"):
        report_runs([run, run])
