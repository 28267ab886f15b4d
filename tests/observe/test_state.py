"""What follows from the readings of a run, and that none is lost on the way to another process."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from sparring.observe.state import RunState, staleness_summary
from tests.support.states import full_state


def test_the_wall_clock_speed_up_counts_work_and_is_none_without_an_allocator() -> None:
    state = RunState(attack_seconds=30.0, full_attack_seconds=80.0, step_seconds=20.0, theoretical_speedup=2.3)
    assert state.wallclock_speedup == pytest.approx((80 + 20) / (30 + 20))
    assert RunState(attack_seconds=30.0, full_attack_seconds=80.0, step_seconds=20.0).wallclock_speedup is None


@pytest.mark.parametrize("state", [RunState(), full_state()], ids=["new", "full"])
def test_a_state_is_read_back_from_json_as_it_was(state: RunState) -> None:
    written = json.dumps(state.as_dict())
    read = RunState.from_dict(json.loads(written))
    assert json.dumps(read.as_dict()) == written
    assert (read.staleness, read.dropped, read.wait_seconds) == (state.staleness, state.dropped, state.wait_seconds)


def test_readings_of_a_newer_version_are_passed_over() -> None:
    assert RunState.from_dict({"step": 3, "reading_of_the_future": 1}) == RunState(step=3)


def test_a_consumed_shard_is_counted_by_its_staleness_and_by_the_two_parts_of_it() -> None:
    state = RunState()
    for staleness, in_flight, in_queue in ((3, 2, 1), (3, 1, 2), (0, 0, 0)):
        state.consumed(staleness, in_flight, in_queue, drift=0.25)
    assert state.staleness == {3: 2, 0: 1} and state.drift_sum == 0.75
    assert state.in_flight == {2: 1, 1: 1, 0: 1} == state.in_queue


@pytest.mark.parametrize(
    ("histogram", "summary"),
    [({}, (0.0, 0)), ({"0": 3, "2": 1}, (0.5, 2)), (Counter({1: 1, 4: 1, 9: 0}), (2.5, 4))],
)
def test_the_mean_and_the_maximum_are_those_of_the_shards(
    histogram: dict[str, int] | Counter[int], summary: tuple[float, int]
) -> None:
    assert staleness_summary(histogram) == summary


@pytest.mark.parametrize(
    "values",
    [
        {"staleness": 5},
        {"staleness": {"1": "x"}},
        {"phase": 3},
        {"step": "3"},
        {"step": None},
        {"loss": {}},
        {"message": []},
    ],
)
def test_a_value_of_another_kind_is_refused_by_name(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        RunState.from_dict(values)
