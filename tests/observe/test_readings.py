"""Readings are numbers or nothing, with every known reason from the start."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from sparring.observe.readings import by_reason, number, of_workers, waits
from sparring.observe.state import RunState


@pytest.mark.parametrize(
    ("value", "reading"), [(3, 3.0), (0.5, 0.5), (True, None), ("3", None), (None, None), ([1], None)]
)
def test_only_a_number_is_a_reading(value: object, reading: float | None) -> None:
    assert number(value) == reading
    workers: dict[str, dict[str, Any]] = {"w0": {"shards": value}, "w1": {}}
    assert list(of_workers("shards")(RunState(), workers)) == [(("w0",), reading), (("w1",), None)]


def test_a_wait_that_is_no_number_is_left_out_and_the_others_are_not() -> None:
    assert waits({"wait_seconds": {"no_ticket": 8, "snapshot": "long"}}) == {"no_ticket": 8.0}
    assert waits({"wait_seconds": 3}) == waits({}) == {}


def test_known_reasons_are_counted_from_0_and_new_ones_once_they_happen() -> None:
    state = RunState(dropped=Counter({"stale": 2, "new": 1}))
    readings = dict(by_reason("dropped", "stale", "failed")(state, {}))
    assert readings == {("stale",): 2, ("failed",): 0, ("new",): 1}
