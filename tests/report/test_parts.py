"""Numbers are written as a reader expects them, and long tables are thinned."""

from __future__ import annotations

import pytest

from sparring.report.parts import duration, percent, table, text


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, "–"), ("", "–"), (True, "yes"), (1234, "1,234"), (0.12345, "0.1235"), (1077.3, "1,077"), ([1], "[1]")],
)
def test_values(value: object, said: str) -> None:
    assert text(value) == said


def test_shares_with_and_without_interval() -> None:
    assert percent(0.931, (0.926, 0.936)) == "93.1 % (92.6 to 93.6)"
    assert (percent(None), percent(0.5)) == ("–", "50.0 %")


@pytest.mark.parametrize(("seconds", "said"), [(3.25, "3.2 s"), (557, "9 min 17 s"), (7260, "2 h 1 min")])
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_long_tables_keep_their_last_row() -> None:
    made = table("steps", ["step"], [(number,) for number in range(100)], most=4)
    assert [row.cells for row in made.rows] == [("24",), ("49",), ("74",), ("99",)]
    assert made.caption == "steps (4 of 100 points)"
    assert table("none", ["step"], []).rows == ()
