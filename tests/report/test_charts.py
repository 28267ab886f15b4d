"""Charts are valid Vega-Lite with the values of their rows; text takes the colour of the page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparring.report import charts, series
from sparring.report.records import Records, read_records
from tests.support.reported import recorded

pytest.importorskip("altair")

Draw = Callable[[list[Records]], charts.Spec]


def names(runs: list[Records]) -> list[str]:
    return [records.name for records in runs]


DRAWN: dict[str, Draw] = {
    "lines": lambda runs: charts.lines(
        series.over_time(runs, series.ACCURACIES), "step", "accuracy", form=".0%", runs=names(runs)
    ),
    "histogram": lambda runs: charts.histogram(series.staleness(runs), runs=names(runs)),
    "shares": lambda runs: charts.shares(series.waited(runs)),
    "areas": lambda runs: charts.areas(series.allocated(runs[0])),
    "by epsilon": lambda runs: charts.curve(series.points(runs, "epsilon"), "epsilon", 0.2, runs=names(runs)),
    "by steps": lambda runs: charts.curve(series.points(runs, "steps"), "steps", 0.2, runs=names(runs)),
    "classes": lambda runs: charts.classes(series.by_class(runs), runs=names(runs)),
    "gap": lambda runs: charts.gap(series.over_time(runs, series.GAP), 0.05, runs=names(runs)),
}


def values(spec: charts.Spec) -> list[dict[str, Any]]:
    """All rows that a chart has."""
    found = [row for rows in spec.get("datasets", {}).values() for row in rows]
    for part in [spec, *spec["layer"]]:
        found += part.get("data", {}).get("values", [])
    return found


@pytest.mark.parametrize("draw", DRAWN.values(), ids=DRAWN)
def test_each_chart_has_the_rows_of_one_run_or_of_two(draw: Draw, tmp_path: Path) -> None:
    runs = [read_records(recorded(tmp_path, name), name) for name in ("a", "b")]
    for some in (runs[:1], runs):
        spec = draw(some)
        assert values(spec) and spec["config"]["axis"]["labelColor"] == "currentColor"
        assert spec["autosize"] == {"type": "fit-x", "contains": "padding"}
        json.dumps(spec, allow_nan=False)


def test_runs_have_a_legend_only_where_there_are_several(tmp_path: Path) -> None:
    rows = series.staleness([read_records(recorded(tmp_path), "a")])
    legends = [
        charts.histogram(rows, runs=each)["layer"][0]["encoding"]["color"]["legend"] for each in (["a"], ["a", "b"])
    ]
    assert legends == [None, {}]


def test_a_run_has_the_same_colour_in_all_charts(tmp_path: Path) -> None:
    second = read_records(recorded(tmp_path, "b"), "b")
    drawn = charts.gap(series.over_time([second], series.GAP), None, runs=["a", "b"])
    assert drawn["layer"][0]["encoding"]["color"]["scale"]["domain"] == ["a", "b"]


def test_of_many_classes_the_least_robust_are_drawn() -> None:
    rows = [
        {"run": "a", "class": str(n), "samples": 5, "clean": 1.0, "value": n / 100, "low": 0.0, "high": 1.0}
        for n in range(60)
    ]
    assert {row["class"] for row in values(charts.classes(rows, runs=["a"]))} == {str(n) for n in range(20)}


def test_the_colours_are_seen_on_both_grounds() -> None:
    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for colour in charts.COLOURS:
        for ground in ("#ffffff", "#14181d"):
            low, high = sorted((luminance(colour), luminance(ground)))
            assert (high + 0.05) / (low + 0.05) >= 3
