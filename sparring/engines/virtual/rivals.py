"""What synchronous training takes on the virtual clock: the loop on one device, and data parallelism on several. Pure.

Their weights do not depend on the clock: one training, that of the loop, serves every number of devices.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from sparring.config import Config
from sparring.engines.virtual.hollow import Work
from sparring.engines.virtual.times import allreduce_s, attack_step_s, prepare_s, step_s
from sparring.trainer.experiment import methods_of


def slices(examples: int, devices: int, attack_steps: int) -> list[Work]:
    """A batch cut for the devices, as evenly as can be. With fewer examples than devices some have none."""
    sizes = [examples // devices + (rank < examples % devices) for rank in range(devices)]
    return [Work(size, (size,) * attack_steps if size else ()) for size in sizes]


def data_parallel(
    config: Config, steps: Iterable[Sequence[Work]], *, size_bytes: int = 0, speeds: Sequence[float] = ()
) -> list[float]:
    """When each step ends, in seconds; `steps`: the slice of each rank.

    A step waits for its slowest rank, then a ring adds up gradients of `size_bytes`. speeds: of the first ranks, others
    have 1. One rank is the synchronous loop. Every part has the jitter of `virtual.jitter`.
    """
    model, methods, now, ends = config.virtual, methods_of(config), 0.0, list[float]()
    jitter = random.Random(config.train.seed)  # nosec B311  # jitter that a seed repeats, no secret

    def varied(seconds: float) -> float:
        return seconds * (1 + model.jitter * (2 * jitter.random() - 1))

    def rank_s(work: Work) -> float:
        attack = sum(varied(attack_step_s(model, active)) for active in work.steps)
        prepared = varied(prepare_s(model, methods.attack, methods.allocator, work.examples))
        return prepared + attack + varied(step_s(model, work.examples))

    for ranks in steps:
        slowest = max(
            rank_s(work) / (speeds[rank] if rank < len(speeds) else 1.0) if work.examples else 0.0
            for rank, work in enumerate(ranks)
        )
        now += slowest + allreduce_s(model, len(ranks), size_bytes)
        ends.append(now)
    return ends
