"""Permits in flight and refresh steps from the times of a run."""

from __future__ import annotations

import pytest

from sparring.engines.asynchronous.pace import Pace, running_mean


def paced(attack_s: float, step_s: float, *, shards_per_step: int = 1, arrivals: int = 3) -> Pace:
    pace = Pace(shards_per_step)
    for _ in range(arrivals):
        pace.arrived(attack_s)
    pace.stepped(step_s * shards_per_step, shards_per_step)
    return pace


@pytest.mark.parametrize(
    ("attack_s", "step_s", "at_once", "permits"),
    [(0.8, 0.1, 20, 8), (0.8, 0.1, 3, 3), (0.81, 0.1, 20, 9), (0.01, 0.1, 20, 1), (0.8, 0.1, 0, 1)],
)
def test_as_many_attacks_as_a_step_consumes_meanwhile(
    attack_s: float, step_s: float, at_once: int, permits: int
) -> None:
    assert paced(attack_s, step_s).in_flight(at_once) == permits


def test_a_step_always_gets_its_shards() -> None:
    assert paced(0.01, 0.1, shards_per_step=4).in_flight(2) == 4


def test_until_times_are_known_everybody_attacks() -> None:
    assert paced(0.01, 0.1, arrivals=2).in_flight(5) == 5
    unstepped = Pace(1)
    for _ in range(3):
        unstepped.arrived(0.1)
    assert unstepped.in_flight(5) == 5


@pytest.mark.parametrize(("idle_s", "steps"), [(0.0, 0), (0.27, 0), (0.29, 1), (0.57, 2), (9.0, 2)])
def test_refresh_takes_no_more_than_the_device_idles(idle_s: float, steps: int) -> None:
    pace = paced(0.8, 0.1, shards_per_step=4)
    pace.idled(idle_s)
    assert pace.refresh_steps(4) == steps


def test_a_step_is_late_in_terms_of_its_first_half() -> None:
    pace = paced(0.8, 0.1, shards_per_step=4)
    for step, half_s in enumerate((1.0, 1.0, 2.0)):
        for ready, waited_s in ((1, half_s - 0.1), (2, half_s), (3, half_s + 0.5)):
            pace.waits(step, ready, waited_s)
            assert not pace.is_late(waited_s, 3.0)
    mean = 0.9 * 1.0 + 0.1 * 2.0
    assert pace.half_s == pytest.approx(mean), "the third shard is not counted"
    assert not pace.is_late(3 * mean - 0.01, 3.0) and pace.is_late(3 * mean + 0.01, 3.0)


def test_a_step_is_not_late_before_it_has_waited_as_long_as_a_training_step_and_never_before_the_first() -> None:
    pace = paced(0.8, 0.1, shards_per_step=4)
    pace.waits(0, 2, 0.0)
    assert not pace.is_late(0.79, 2.0) and pace.is_late(0.81, 2.0)
    assert not Pace(4).is_late(1000.0, 2.0)


def test_running_means_begin_with_the_first_value() -> None:
    assert running_mean(0.0, 5.0) == 5.0
    assert running_mean(5.0, 15.0) == pytest.approx(6.0)
    assert running_mean(5.0, 15.0, weight=0.5) == pytest.approx(10.0)
