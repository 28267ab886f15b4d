"""The page is one file that loads nothing, runs its own scripts alone, and escapes what comes from a run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sparring.errors import UsageError
from sparring.report import charts, drawing
from sparring.report.parts import Card, Chart, Gallery, Picture, Section, table
from sparring.report.writing import MARK, page, require_writable, write

HOSTILE = "<script>alert('&')</script>"


@pytest.fixture
def without_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "installed", lambda: False)
    monkeypatch.setattr(drawing, "installed", lambda: False)


def hostile() -> Section:
    """A section whose every word is an attempt."""
    listed = table(HOSTILE, [HOSTILE], [(HOSTILE, HOSTILE)])
    picture = Picture(HOSTILE, "robust", "data:,", "data:,", "data:,", HOSTILE, HOSTILE, HOSTILE)
    return Section(
        "figures",
        HOSTILE,
        (HOSTILE,),
        (Chart("one", HOSTILE, HOSTILE, {"description": HOSTILE}, listed),),
        (listed,),
        (Gallery(HOSTILE, HOSTILE, (picture,)),),
        ((HOSTILE, HOSTILE),),
        ((HOSTILE, HOSTILE),),
        (Card(HOSTILE, HOSTILE, HOSTILE, HOSTILE),),
    )


def test_what_comes_from_a_run_is_escaped(without_charts: None) -> None:
    made = page(HOSTILE, [hostile()])
    assert "<script>" not in made and made.count("&lt;script&gt;") > 20


def test_without_altair_it_says_what_to_install_and_has_tables(without_charts: None) -> None:
    made = page("mine", [hostile()])
    assert "pip install &#39;sparring[report]&#39;" in made and "<table" in made and 'class="plot"' not in made


def test_with_charts_scripts_are_allowed_by_their_digests_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "installed", lambda: True)
    monkeypatch.setattr(drawing, "installed", lambda: True)
    monkeypatch.setattr(drawing, "scripts", lambda: "window.vegaEmbed = 1")
    monkeypatch.setattr(drawing, "svg", lambda spec, name: "<svg></svg>")
    made = page("mine", [hostile()])
    policy = re.findall(r'Content-Security-Policy" content="([^"]*)"', made)[0].replace("&#39;", "'")
    assert policy.startswith("default-src 'none'; img-src data:") and policy.count("sha256-") == 2
    assert len(re.findall(r"<script>", made)) == 2 and "<noscript>" in made
    assert "<script>alert" not in made  # in the JSON of the chart neither


def test_only_a_report_is_written_over(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    require_writable(file)
    write(file, f"<head>{MARK}</head>")
    require_writable(file)
    file.write_text("mine")
    for wrong in (file, tmp_path, tmp_path / "nowhere" / "report.html"):
        with pytest.raises(UsageError, match="--out"):
            require_writable(wrong)
