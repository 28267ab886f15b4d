"""Seeded schedules of faults: two or more happen in each, in half of them two at once; an audit follows."""

from __future__ import annotations

import logging
import random
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import torch

from tests.chaos.audit import violations
from tests.chaos.faults import FAULTS
from tests.chaos.world import World, recipe
from tests.support.runs import small

WORKERS = 2


@dataclass
class Outcome:
    """How a schedule ended. faults: the names of those that happened, with the seconds until the next step."""

    seed: int
    phase: str
    lives: int
    violations: list[str]
    faults: list[tuple[str, float]] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.violations and self.phase == "finished"


def run_schedule(seed: int, root: Path) -> Outcome:
    """Make the run of one schedule, resume it until nothing is missing, and audit it."""
    drawn = random.Random(seed)
    folder = root / f"schedule-{seed}"
    world = World(small(folder, **recipe(folder, drawn)), seed, WORKERS)
    at, happened = _schedule(drawn), list[tuple[str, int, float]]()

    def happen(step: int) -> None:
        for name in at.pop(step, ()):
            happened.append((name, len(world.steps_at), time.monotonic()))
            FAULTS[name](world)

    world.at_step = happen
    phase = ended = world.live()
    if phase != "finished":  # a resume without the poison makes what is missing
        world.poisoned.clear()
        phase = world.live()
    found = violations(
        world.run.path, world.tickets, world.config.staleness.max_staleness, finished=phase == "finished"
    )
    if ended.startswith("failed"):
        found.append(ended)
    times = [(name, world.steps_at[made] - when) for name, made, when in happened if made < len(world.steps_at)]
    if not found and phase == "finished":
        shutil.rmtree(folder)
    return Outcome(seed, phase, world.lives, found, times)


def _schedule(drawn: random.Random) -> dict[int, list[str]]:
    """Names of faults by step; in half of the schedules two happen at once."""
    names = [drawn.choice(list(FAULTS)) for _ in range(drawn.choice((2, 2, 3, 4)))]
    steps = [drawn.randrange(1, 8) for _ in names]
    if drawn.random() < 0.5:
        steps[1] = steps[0]
    at: dict[int, list[str]] = {}
    for step, name in sorted(zip(steps, names, strict=True)):
        at.setdefault(step, []).append(name)
    return {step: sorted(names, key=_ends_a_life) for step, names in at.items()}


def _ends_a_life(name: str) -> bool:
    """Last of those that happen together."""
    return ("kill" in name and "worker" not in name) or "trainer" in name or "damaged" in name or "cut" in name


def faults_of(seed: int) -> dict[int, list[str]]:
    """The names of the faults of a schedule, by step."""
    drawn = random.Random(seed)
    recipe(Path(), drawn)
    return _schedule(drawn)


def quiet() -> None:
    """Of a process that makes schedules: what goes wrong is meant to."""
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)


def table(outcomes: list[Outcome], faults: Iterable[str]) -> Iterator[str]:
    """Fault, how often it happened, in how many runs that passed, seconds until the next step."""
    yield "| fault | times | passed | next step after, median (s) | max (s) |"
    yield "| --- | --- | --- | --- | --- |"
    for name in faults:
        hit = [(one, seconds) for one in outcomes for fault, seconds in one.faults if fault == name]
        if hit:
            times = [seconds for _, seconds in hit]
            passed = sum(one.passed for one, _ in hit)
            yield f"| {name} | {len(hit)} | {passed} | {median(times):.2f} | {max(times):.2f} |"
