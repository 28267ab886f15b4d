"""The expected staleness is that of an event simulation, about that of emulated runs, and that of arithmetic."""

from __future__ import annotations

import random
from dataclasses import replace
from statistics import mean

import pytest

from sparring.commands.calibration import Measured
from sparring.commands.staleness import COUNTED_STEPS, WAKING_S, WAKINGS, mean_staleness
from sparring.commands.verdict import ray_rate
from sparring.config import Config, from_tree
from tests.support.measured import measured

MANY_CORES, STEP_S, ATTACK_STEPS, SHARDS = 10_000, 0.01, 10, 3000


def recipe(workers: int, of_step: int, *, exchange: bool = True, own: str = "never", **staleness: int) -> Config:
    settings = {"max_staleness": 10, "depth": 3, "trainer_attacks": own, "exchange": exchange, **staleness}
    return from_tree(
        {
            "workers": {"count": workers},
            "train": {"shards_per_step": of_step},
            "attack": {"steps": ATTACK_STEPS},
            "staleness": settings,
        }
    )


def expected(config: Config, machine: Measured) -> float:
    return mean_staleness(config, machine, ray_rate(config, machine))


def simulated(workers: int, attack_s: float, of_step: int, sent_s: float, late_s: float, counted: int) -> float:
    """Staleness of the shards of workers that never wait, event by event; attacks take 10 % more or less at random.

    The weights of a shard are the newest that have arrived `counted` attack steps before its attack ends.
    """
    draw, arrivals = random.Random(0), list[tuple[float, float]]()  # the trainer has a shard; its weights were taken
    for _ in range(workers):
        now = attack_s * draw.random()
        for _ in range(SHARDS // workers):
            took = attack_s * draw.uniform(0.9, 1.1)
            arrivals.append((now + took + sent_s, now + took * (1 - counted / ATTACK_STEPS)))
            now += took
    arrivals.sort()
    free, ends, found = 0.0, list[float](), list[int]()
    for first in range(0, SHARDS - 2 * workers - of_step, of_step):
        step = arrivals[first : first + of_step]
        found += [sum(end + late_s > taken for end in ends[-40:]) for _, taken in step]
        free = max(free, step[-1][0]) + of_step * STEP_S
        ends.append(free)
    return mean(found)


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize(("sent_s", "late_s"), [(0.0, 0.0), (0.004, 0.012)])
@pytest.mark.parametrize(("workers", "attack_s", "of_step"), [(1, 0.1, 1), (2, 0.1, 1), (4, 0.1, 2), (6, 0.1, 4)])
def test_of_a_trainer_that_has_time_left_it_is_what_a_simulation_finds(
    workers: int, attack_s: float, of_step: int, sent_s: float, late_s: float, exchange: bool
) -> None:
    machine = measured(attack_s, STEP_S, cores=MANY_CORES, encode_s=sent_s)
    found = simulated(workers, attack_s, of_step, sent_s, late_s, COUNTED_STEPS if exchange else ATTACK_STEPS)
    config = recipe(workers, of_step, exchange=exchange)
    assert expected(config, replace(machine, snapshot_send_s=late_s)) == pytest.approx(found, abs=0.05)


@pytest.mark.parametrize(
    ("attack_ms", "workers", "of_step", "depth", "found"),
    [
        *((80, 1, 2, 3, 0.91), (80, 2, 2, 3, 1.78), (80, 4, 4, 3, 2.02), (80, 8, 8, 2, 2.0), (80, 32, 32, 2, 2.0)),
        *((320, 1, 2, 3, 0.74), (320, 4, 4, 3, 1.73), (320, 8, 8, 2, 1.68), (320, 16, 16, 2, 1.82)),
    ],
)
def test_it_is_about_what_emulated_runs_had(
    attack_ms: int, workers: int, of_step: int, depth: int, found: float
) -> None:
    """The table of docs/benchmarks.md."""
    config = recipe(workers, of_step, exchange=False, own="always", depth=depth)
    assert expected(config, measured(attack_ms / 1000, STEP_S, cores=MANY_CORES)) == pytest.approx(found, abs=0.45)


def test_two_workers_age_by_two_attack_steps_a_training_step_and_both_latencies() -> None:
    """The other worker makes 10 shards a second, while 2 x 10 ms of attack, 10 ms of a step and 20 ms pass."""
    machine = replace(measured(0.1, STEP_S, cores=MANY_CORES, encode_s=0.005), snapshot_send_s=0.015)
    assert expected(recipe(2, 1), machine) == pytest.approx(10 * (0.02 + 0.01 + 0.005 + 0.015))


def test_on_shared_cores_attacks_take_longer_and_threads_wait_for_a_core() -> None:
    """2 cores make 2 / .11 shards a second, so an attack takes .11 s by the clock, and two of its steps .022 s."""
    window_s = 0.022 + 0.01 + WAKINGS * WAKING_S
    assert mean_staleness(recipe(2, 1), measured(0.1, STEP_S), 2 / 0.11) == pytest.approx(window_s / 0.11)


def test_rarer_publications_make_weights_older() -> None:
    often, rarely = (expected(recipe(2, 1, publish_every=every), measured(0.1, STEP_S)) for every in (1, 4))
    assert rarely - often == pytest.approx(1.5)


@pytest.mark.parametrize(("finish", "staleness"), [("auto", 0), (2, 0), (1, 3)])
def test_a_fresh_finish_fixes_it(finish: str | int, staleness: int) -> None:
    settings = {"finish": finish, "lead": 3}
    config = from_tree({"attack": {"steps": ATTACK_STEPS}, "staleness": settings})
    assert mean_staleness(config, measured(0.1, STEP_S), 10.0) == staleness


def test_it_never_exceeds_the_bound() -> None:
    machine = replace(measured(0.1, STEP_S, cores=MANY_CORES), snapshot_send_s=5.0)
    assert expected(recipe(2, 1, max_staleness=4), machine) == 4
