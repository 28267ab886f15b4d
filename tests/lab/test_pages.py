"""A study's part of a page is replaced between its marks, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparring.errors import SparringError, UsageError
from sparring.lab.pages import drawn, marks_of, pages_in, part, put
from sparring.lab.results import Results
from tests.support.studies import STUDY, record

RESULTS = Results([record("train", {"rate": rate, "seed": 0}, clean_accuracy=0.5) for rate in (0.001, 0.01)])
PAGE = "# Title\n\nours\n\n<!-- lab: digits quick -->\nold\n<!-- end of digits -->\n\nmore\n"


def test_a_part_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert marks_of(page) == [("digits", "quick")] and pages_in(tmp_path) == [page]
    text = part(STUDY, "quick", RESULTS, 3, ["rates"])
    assert put(page, STUDY, "quick", text) and not put(page, STUDY, "quick", text)
    after = page.read_text()
    assert (
        after.startswith("# Title\n\nours\n")
        and after.endswith("<!-- end of digits -->\n\nmore\n")
        and "old" not in after
    )
    assert "(2 of 3 points, seeds 0.)" in after and "![digits: rates](pictures/digits-quick-rates.svg)" in after
    with pytest.raises(SparringError, match="lacks the lines <!-- lab: digits full -->"):
        put(page, STUDY, "full", text)
    with pytest.raises(UsageError, match="no page"):
        pages_in(tmp_path / "nowhere")


def test_charts_of_what_was_run_are_drawn(tmp_path: Path) -> None:
    assert drawn(STUDY, RESULTS, tmp_path) == ["rates"]
    assert {path.name for path in tmp_path.iterdir()} == {"rates.svg", "rates.png"}
    assert drawn(STUDY, Results([]), tmp_path / "none") == []
