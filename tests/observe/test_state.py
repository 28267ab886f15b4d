"""What follows from the readings of a run."""

from __future__ import annotations

import pytest

from sparring.observe.state import RunState


def test_the_wall_clock_speed_up_counts_work_and_is_none_without_an_allocator() -> None:
    state = RunState(attack_seconds=30.0, full_attack_seconds=80.0, step_seconds=20.0, theoretical_speedup=2.3)
    assert state.wallclock_speedup == pytest.approx((80 + 20) / (30 + 20))
    assert RunState(attack_seconds=30.0, full_attack_seconds=80.0, step_seconds=20.0).wallclock_speedup is None
