"""The workers of a run on the virtual clock, and what happens: they die, join and slow down; the trainer dies."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from sparring.config import Config
from sparring.engines.virtual.cluster import Cluster


class TrainerDied(BaseException):
    """The trainer is gone for `down_s`. No Exception: whoever catches the errors of attacks is not to catch it."""

    def __init__(self, down_s: float) -> None:
        super().__init__(down_s)
        self.down_s = down_s


class Worker(Protocol):
    """What can happen to a worker."""

    speed: float

    def wake(self) -> None:
        """Look for something to do."""

    def die(self) -> None:
        """Its tickets are lost."""


def populate(cluster: Cluster, config: Config, worker_of: Callable[[int], Worker]) -> None:
    """Make the workers that are there from the start, and schedule the events. Workers are numbered from 1 on."""
    joining = {event.worker for event in config.virtual.events if event.what == "joins"}
    workers = {n: worker_of(n) for n in range(1, config.workers.count + 1) if n not in joining}

    def join(number: int) -> None:
        workers[number] = worker_of(number)
        workers[number].wake()

    def slow(number: int, speed: float) -> None:
        workers[number].speed = speed

    def die(number: int) -> None:
        workers[number].die()

    def kill_trainer(down_s: float) -> None:
        raise TrainerDied(down_s)

    for event in config.virtual.events:
        happens = {
            "trainer_dies": partial(kill_trainer, event.down_s),
            "dies": partial(die, event.worker),
            "joins": partial(join, event.worker),
            "slows": partial(slow, event.worker, event.speed),
        }
        cluster.after(event.at_s, happens[event.what])


def speed_of(config: Config, number: int) -> float:
    """Speed of worker `number`; 1 where none is set."""
    speeds = config.virtual.speeds
    return speeds[number - 1] if number <= len(speeds) else 1.0
