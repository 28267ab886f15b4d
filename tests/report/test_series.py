"""The rows of the charts are what the records say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sparring.observe.state import RunState
from sparring.report import series
from sparring.report.records import Records, read_records
from tests.support.reported import recorded


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return read_records(recorded(tmp_path), "mine")


def test_only_what_was_measured_is_drawn(records: Records) -> None:
    rows = series.over_time([records], series.ACCURACIES)
    assert {row["measure"] for row in rows} == {"training examples, attacked"}
    assert (rows[0]["step"], rows[0]["examples"], rows[0]["seconds"], rows[0]["value"]) == (5, 320, 2.5, 0.1)


def test_a_judged_version_stands_where_its_weights_were_trained(records: Records) -> None:
    later = [RunState(step=step, examples=64 * step, rolling_version=12, rolling_accuracy=0.5) for step in (30, 40)]
    history = (RunState(step=10, examples=640), RunState(step=20, examples=1280), *later)
    rows = series.judged([replace(records, history=history)])
    assert [(row["step"], row["examples"], row["value"]) for row in rows] == [(20, 1280, 0.5)]
    assert series.judged([records]) == []


def test_losses_that_are_not_finite_are_left_out(records: Records) -> None:
    broken = replace(records, history=(RunState(step=1, loss=float("nan")), RunState(step=2, loss=1.0)))
    assert [row["step"] for row in series.over_time([broken], series.LOSS)] == [2]


def test_staleness_goes_up_to_the_bound(records: Records) -> None:
    rows = series.staleness([records])
    assert [(row["staleness"], row["shards"]) for row in rows] == [(0, 20), (1, 20), (2, 0), (3, 0), (4, 0)]
    assert rows[0]["share"] == 0.5 and rows[0]["bound"] == 4


def test_throughput_is_examples_over_seconds_between_two_lines(records: Records) -> None:
    rows = series.throughput([records])
    assert len(rows) == 7 and {row["value"] for row in rows} == {128.0}


def test_the_time_of_each_process_adds_up(records: Records) -> None:
    rows = series.waited([records])
    by_name = {(row["who"], row["what"]): row["seconds"] for row in rows}
    assert sum(seconds for (who, _), seconds in by_name.items() if who == "trainer") == pytest.approx(20)
    assert sum(seconds for (who, _), seconds in by_name.items() if who == "workers") == pytest.approx(2 * 20)
    assert by_name["workers", "attacks"] == 32 and by_name["trainer", "waits for shards of workers"] == 4


def test_attacks_of_a_run_without_workers_are_the_trainers(records: Records) -> None:
    state = RunState(seconds=10.0, step_seconds=2.0, attack_seconds=7.0)
    found = {each.what: each.seconds for each in series.waiting(replace(records, state=state))}
    assert found == {"training steps": 2.0, "attacks": 7.0, "other work": 1.0}
    assert series.waiting(replace(records, state=RunState())) == []


def test_the_allocators_shares_are_those_between_two_lines(records: Records) -> None:
    rows = series.allocated(records)
    assert len(rows) == 24 and rows[0] == {
        "run": "mine",
        "class": "boundary",
        "examples": 250,
        "share": 250 / 320,
        "step": 5,
    }


def test_the_ball_that_reaches_every_image_is_not_drawn(records: Records) -> None:
    rows = series.points([records], "epsilon")
    assert [row["at"] for row in rows] == [0.0, 0.2, 1.0]
    assert [row["at"] for row in series.within_reach(rows, [records])] == [0.0, 0.2]
    assert [row["at"] for row in series.points([records], "steps")] == [1, 10, 100]


def test_classes_come_with_their_samples(records: Records) -> None:
    assert [(row["class"], row["samples"], row["value"]) for row in series.by_class([records])] == [
        ("0", 50, 0.4),
        ("1", 50, 0.6),
    ]
