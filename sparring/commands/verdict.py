"""Which engine makes a recipe's run fastest on this machine. Pure: predicted from the times that were measured.

One process has all cores or one GPU. Ranks of ddp and the processes of ray have a GPU each, or share the cores: then
all of them together cannot do more core-seconds a second than there are cores. What the queue costs is counted as work
of the cores, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from sparring.commands.calibration import Measured
from sparring.commands.combinations import check_combinations
from sparring.config import Config, from_tree, trainer_attacks, with_workers
from sparring.errors import UsageError
from sparring.observe.progress import duration
from sparring.trainer.plan import Plan

START_S = {"sync": 1.0, "ddp": 4.5, "ray": 8.5}  # until the first step, on two cores
SHARED = 1.1  # a pass takes so much longer where all cores of a machine are busy
DDP_STEP_S = 0.08  # of a step of ranks on CPUs: they wait for the slower one and add up by gloo
SHARD_CORE_S = 0.007  # of the trainer's and the worker's loops for a shard, beside the measured parts
TIE = 1.02  # a simpler engine is named where it takes at most so much longer
MOST_WORKERS = 16  # that are considered on one machine


@dataclass(frozen=True)
class Choice:
    """A way to make the run. processes: workers of ray, ranks of ddp, 1; seconds: start and training."""

    engine: str
    processes: int
    shards_per_second: float
    seconds: float

    @property
    def name(self) -> str:
        """Such as `ray with 2 workers`."""
        kinds = {"ray": "worker", "ddp": "rank"}
        if self.engine not in kinds:
            return self.engine
        return f"{self.engine} with {self.processes} {kinds[self.engine]}{'s' if self.processes > 1 else ''}"


def choices(config: Config, measured: Measured, plan: Plan) -> list[Choice]:
    """The best of each engine that the recipe allows, the simplest engine first."""
    shards = shards_of(config, plan)

    def choice(engine: str, processes: int, rate: float) -> Choice:
        return Choice(engine, processes, rate, START_S[engine] + shards / rate)

    found = [choice("sync", 1, 1 / measured.alone_s)]
    ranks = devices(config, measured)
    if ranks > 1 and _is_allowed(config, {"engine": "ddp", "ddp": {"ranks": ranks}}):
        found.append(choice("ddp", ranks, ddp_rate(config, measured, ranks)))
    if _is_allowed(config, {"engine": "ray"}):
        by_workers = {count: ray_rate(with_workers(config, count), measured) for count in _counts(config, measured)}
        fastest = max(by_workers.values())
        fewest = min(workers for workers, rate in by_workers.items() if rate * TIE >= fastest)
        found.append(choice("ray", fewest, by_workers[fewest]))
    return found


def best_of(found: list[Choice]) -> Choice:
    """The fastest; of those that are about as fast the first, and so the simplest."""
    fastest = min(choice.seconds for choice in found)
    return next(choice for choice in found if choice.seconds <= TIE * fastest)


def shards_of(config: Config, plan: Plan) -> float:
    """Shards that the run trains on."""
    steps = min(plan.total_steps, config.train.max_steps or plan.total_steps)
    return sum(plan.shards_by_epoch) * steps / plan.total_steps


def by_devices(config: Config, measured: Measured, plan: Plan, counts: Sequence[int]) -> dict[int, float]:
    """Seconds of training by the number of devices, each as fast as one core (or GPU) here: a trainer and workers."""
    tree = config.model_dump(mode="json", exclude_none=True)
    if config.staleness.trainer_attacks == "auto":  # as it would with a device of its own
        tree["staleness"]["trainer_attacks"] = "always"
    apart = from_tree({**tree, "ray": {"address": "auto"}})
    alone = 1 / (measured.attack_one_s + measured.step_one_s)
    rates = {count: ray_rate(with_workers(apart, count - 1), measured) if count > 1 else alone for count in counts}
    return {count: shards_of(config, plan) / rate for count, rate in rates.items()}


def sentence(found: list[Choice]) -> str:
    """The verdict with the expected time of each choice."""
    best = best_of(found)
    others = [f"{choice.name} {duration(choice.seconds)}" for choice in found if choice is not best]
    beside = f"; {', '.join(others)}" if others else ""
    return f"Use {best.name}: about {duration(best.seconds)} until it is trained{beside} (h:mm:ss, a prediction)."


def devices(config: Config, measured: Measured) -> int:
    """What the processes of a run can have to themselves: GPUs, or cores; on a cluster one for each process."""
    if config.ray.address != "local":
        return config.workers.count + 1
    return measured.gpus if measured.gpus else measured.cores


def ray_rate(config: Config, measured: Measured) -> float:
    """Shards per second with `workers.count` workers: bound by their attacks, the trainer's steps, or the cores."""
    workers, ratio = config.workers.count, measured.attack_one_s / measured.step_one_s
    attackers = workers + 1.0 if trainer_attacks(config) else workers * (1 + 1 / ratio)
    rate = min(attackers, 1 + ratio) / (measured.attack_one_s + measured.step_one_s)
    if config.ray.address != "local":
        return rate
    return min(rate, measured.cores / core_seconds(config, measured))


def core_seconds(config: Config, measured: Measured) -> float:
    """Core-seconds that a shard takes where the processes of ray share the cores: attack, training step, its way
    through the queue, and its part of what a publication costs the trainer and each worker, which is about a load."""
    publications = 1 / (config.train.shards_per_step * config.staleness.publish_every)
    of_weights = (config.workers.count + 1) * measured.snapshot_load_s * publications
    passes = SHARED * (measured.attack_core_s + measured.step_core_s)
    return passes + SHARD_CORE_S + measured.transport_s + of_weights


def ddp_rate(config: Config, measured: Measured, ranks: int) -> float:
    """Shards per second of equal ranks; the slowest rank of a step has the most tickets."""
    tickets = config.train.shards_per_step
    step_s = ceil(tickets / ranks) * (measured.attack_one_s + measured.step_one_s)
    if not measured.gpus:
        step_s = SHARED * step_s + DDP_STEP_S
    return tickets / step_s


def _counts(config: Config, measured: Measured) -> range:
    """Numbers of workers to consider: on a machine as many as it has devices, elsewhere those of the recipe."""
    if config.ray.address != "local":
        return range(config.workers.count, config.workers.count + 1)
    most = measured.gpus - 1 if measured.gpus else measured.cores
    return range(1, max(1, min(most, MOST_WORKERS)) + 1)


def _is_allowed(config: Config, changes: dict[str, object]) -> bool:
    try:
        check_combinations(from_tree({**config.model_dump(mode="json", exclude_none=True), **changes}))
    except UsageError:
        return False
    return True
