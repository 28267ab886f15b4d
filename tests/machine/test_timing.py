"""The median after a warm-up, and never much longer than the budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest

from sparring.machine import timing


class Clock:
    """Time that passes while the work goes on."""

    def __init__(self, durations: Sequence[float]) -> None:
        self.now, self.calls, self._durations = 0.0, 0, durations

    def work(self) -> None:
        self.now += self._durations[min(self.calls, len(self._durations) - 1)]
        self.calls += 1


@pytest.fixture
def clocked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Clock]:
    def clock(*durations: float) -> Clock:
        made = Clock(durations)
        monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: made.now))
        return made

    return clock


def test_the_warm_up_does_not_count_and_outliers_do_not_matter(clocked: Callable[..., Clock]) -> None:
    clock = clocked(100.0, 0.001, 0.3, 0.002, 0.001)
    assert timing.median_seconds(clock.work) == pytest.approx(0.001)
    assert clock.calls == 1 + timing.REPEATS


def test_slow_work_is_timed_within_the_budget_and_at_least_once(clocked: Callable[..., Clock]) -> None:
    clock = clocked(0.2)
    assert timing.median_seconds(clock.work) == pytest.approx(0.2) and clock.now <= 0.2 + timing.BUDGET_S + 0.2
    clock = clocked(9.0)
    assert timing.median_seconds(clock.work) == pytest.approx(9.0) and clock.calls == 2
