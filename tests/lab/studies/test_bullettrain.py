"""Every point of these studies can be run, and no two are the same; their claims tell good figures from bad ones."""

from __future__ import annotations

import pytest

from sparring.lab.results import Record, Results
from sparring.lab.studies import bullettrain
from sparring.lab.study import SIZES, Size
from tests.support.studies import record, require_sound, studies_in

STUDIES = studies_in(bullettrain)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", STUDIES)
def test_every_point_can_be_run(name: str, size: Size) -> None:
    require_sound(STUDIES[name], size)


def test_costs_are_held_against_the_method_without_an_addition() -> None:
    def found(method: str, seconds: float, gradients: float, **more: object) -> Record:
        figures = {"training_processor_seconds": seconds, "gradients_per_example": gradients, **more}
        return record("train", {"method": method, "seed": 0}, **figures)

    allocated = {"boundary": 30, "robust": 50, "outlier": 20}
    records = [
        found("TRADES", 60, 8.0),
        found("TRADES + FAST", 20, 1.0),
        found("TRADES + YOPO-2-5", 30, 2.0),
        found("TRADES + BT, N_R = 2", 40, 3.4, allocated=allocated, theoretical_speedup=2.1),
        found("MART", 90, 8.0),
    ]
    whole, fast, yopo, bt, mart = (each["figures"] for each in bullettrain.with_costs(Results(records)))
    assert (fast["theoretical_speedup"], fast["clock_speedup"]) == (9 / 2, 3.0)
    assert "theoretical_speedup" not in yopo and yopo["clock_speedup"] == 2.0
    assert (bt["theoretical_speedup"], bt["clock_speedup"]) == (2.1, 1.5)
    assert [bt[f"{name}_share"] for name in ("boundary", "robust", "outlier")] == [0.3, 0.5, 0.2]
    assert "clock_speedup" not in whole and "clock_speedup" not in mart
    assert "clock_speedup" not in records[1]["figures"], "the records stay as they are"


def test_the_papers_rows_are_rows_of_the_tables() -> None:
    rows = {point.at["method"] for size in SIZES for point in bullettrain.METHODS.points(size, [0])}
    assert {row for table in bullettrain.METHODS.tables for (row,) in table.paper} <= rows
