"""The timeline's table counts every moment once, and what it puts its clock around is there."""

from __future__ import annotations

import functools
import importlib

import pytest

from benchmarks.timeline import SPANS, Span, own_times, table


def span(name: str, began: float, lasted: float, tid: int = 1) -> Span:
    return {"name": name, "ts": began, "dur": lasted, "pid": 1, "tid": tid, "args": {"thread": f"thread-{tid}"}}


def test_a_moment_belongs_to_the_innermost_span() -> None:
    spans = [span("a", 0, 100), span("b", 10, 30), span("c", 15, 5), span("d", 50, 10), span("e", 100, 7)]
    found = {name: round(1e6 * seconds) for name, seconds in own_times(spans).items()}
    assert found == {"a": 60, "b": 25, "c": 5, "d": 10, "e": 7}


def test_own_time_is_what_is_neither_work_nor_wait() -> None:
    spans = [
        *(span("attack", 0, 700), span("wait: shards", 700, 100), span("record", 800, 150), span("step", 820, 100)),
        span("decode", 0, 50, tid=2),
    ]
    lines = table(spans, 0, 1000).splitlines()
    assert lines[2].startswith("| trainer | 80.0 % | 10.0 % | 10.0 % |")
    assert "record 5.00 %" in lines[2] and "between 5.00 %" in lines[2]
    assert lines[-1] == "| thread-2 | decode 5.00 % |"


@pytest.mark.parametrize("place", SPANS)
def test_what_is_timed_exists(place: str) -> None:
    module, _, path = place.partition(":")
    assert callable(functools.reduce(getattr, path.split("."), importlib.import_module(module)))
