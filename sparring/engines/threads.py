"""How many threads each process takes, so that together they use the cores once.

More threads than cores are worse than idle cores: those of one pass wait for each other by spinning, and passes take
many times as long.
"""

from __future__ import annotations

import os

from sparring.config import Config


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_threads(config: Config) -> int:
    """An equal share of the cores for each worker on CPU, one core being left to the trainer; one on GPU."""
    if config.workers.threads is not None:
        return config.workers.threads
    if config.workers.num_gpus > 0:
        return 1
    return max(1, (cores() - 1) // max(config.workers.count, 1))


def trainer_threads(config: Config) -> int:
    """All cores for one process; what workers on CPU leave, or as many as another rank has; one beside GPUs."""
    if config.trainer.threads is not None:
        return config.trainer.threads
    if config.engine == "ddp":
        return max(1, cores() // config.ddp.ranks)
    if config.engine != "ray" or config.workers.count == 0:
        return cores()
    if config.workers.num_gpus > 0:
        return 1
    return max(1, cores() - config.workers.count * worker_threads(config))


def trainer_attacks(config: Config) -> bool:
    """Whether the trainer makes shards itself while it would wait."""
    settings = config.staleness
    allowed = {"auto": trainer_would_idle(config), "always": True, "never": False}[settings.trainer_attacks]
    return allowed and not settings.lockstep


def trainer_would_idle(config: Config) -> bool:
    """The trainer's device is not filled by workers: it has a GPU of its own, or cores are left over."""
    if config.trainer.num_gpus > 0:
        return True
    on_cpu = config.workers.count if config.workers.num_gpus == 0 else 0
    return on_cpu * worker_threads(config) + trainer_threads(config) <= cores()
