"""What a run would be like, told without making it: a few seconds of measuring, then Little's law.

`predict` is pure; `sparring.commands.calibration` measures what it begins with. Times are seconds per shard unless a
name says otherwise.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import ceil, prod
from typing import Any

from sparring.allocators import speedup_ceiling, theoretical_speedup
from sparring.attacks import Attack
from sparring.commands.calibration import Measured, measure
from sparring.commands.combinations import check_combinations
from sparring.config import Config, check_staleness, depth, exchanges, tickets_at_once, trainer_attacks
from sparring.errors import UsageError
from sparring.queue.sizing import needed_memory
from sparring.trainer.experiment import build_experiment, methods_of
from sparring.trainer.plan import Plan

PAPER_CLASSES = {"outlier": 0.18, "boundary": 0.28, "robust": 0.54}  # TRADES on CIFAR-10, Hua et al.
WANTED_STALENESS = 2.0  # mean, in steps: what steps should be large enough for
LABELS = {  # of the figures that the table shows: what it is, and its unit
    "device": ("measured on", ""),
    "attack_s": ("attack", "s per shard"),
    "step_s": ("training step", "s per shard"),
    "latency_s": ("latency: encode, transport, decode, load of a snapshot", "s"),
    "payload_bytes": ("payload", "bytes per shard"),
    "snapshot_bytes": ("snapshot of the weights", "bytes"),
    "steps": ("steps", ""),
    "duration_s": ("training takes about", "s"),
    "shards_per_second": ("throughput", "shards/s"),
    "bottleneck": ("bottleneck", ""),
    "speedup": ("speed-up over the synchronous loop at a worker's threads", "times"),
    "ideal_speedup": ("the same with a device for each process", "times"),
    "useful_workers": ("useful workers (attack / step)", ""),
    "outstanding_shards": ("shards outstanding at most", "shards"),
    "outstanding_bytes": ("their payload", "bytes"),
    "redis_maxmemory_bytes": ("Redis maxmemory", "bytes"),
    "mean_staleness": ("mean staleness expected", "steps"),
    "max_staleness": ("highest staleness expected", "steps"),
    "shards_per_step_needed": (f"shards per step for a mean staleness of {WANTED_STALENESS:g}", "shards"),
}


@dataclass(frozen=True)
class Predicted:
    """The run that these times make. Staleness in steps; rates in shards; None: the engine has no such thing."""

    steps: int
    duration_s: float | None
    shards_per_second: float
    bottleneck: str
    speedup: float
    ideal_speedup: float
    useful_workers: float
    outstanding_shards: int | None = None
    outstanding_bytes: int | None = None
    redis_maxmemory_bytes: int | None = None
    mean_staleness: float = 0.0
    max_staleness: int = 0
    shards_per_step_needed: int | None = None
    latency_steps: float | None = None


@dataclass(frozen=True)
class Explanation:
    """What was measured, what follows, and what to make of it. `refused`: why the run would not start."""

    config: Config
    measured: Measured
    predicted: Predicted
    refused: str | None
    remarks: list[str]

    @property
    def ok(self) -> bool:
        return self.refused is None

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {
            "ok": self.ok,
            "refused": self.refused,
            "inequalities": [{"inequality": text, "holds": holds} for text, holds in inequalities(self.config)],
            "measured": {**asdict(self.measured), "latency_s": self.measured.latency_s},
            "predicted": asdict(self.predicted),
            "remarks": self.remarks,
        }

    def rows(self) -> list[dict[str, object]]:
        """For `observe.report.table`."""
        found = self.as_dict()
        figures = {**found["measured"], **found["predicted"]}
        rows: list[dict[str, object]] = [
            {"": label, "value": f"{_text(figures[name])} {unit}".rstrip()}
            for name, (label, unit) in LABELS.items()
            if figures[name] is not None
        ]
        checks = inequalities(self.config) if self.config.engine == "ray" else []
        return rows + [{"": text, "value": "holds" if holds else "FAILS"} for text, holds in checks]


def explain(config: Config) -> Explanation:
    """Measure on this machine for a few seconds and predict the run.

    Raises:
        SparringError: the data cannot be loaded or the model not built, or settings do not go together. A staleness
            that is refused does not raise.
    """
    check_combinations(config)
    experiment = build_experiment(config)
    measured = measure(experiment)
    predicted = predict(config, measured, experiment.plan)
    refused = None
    remarks = [*_remarks(config, measured, predicted), *_of_methods(config, measured, experiment.plan)]
    if config.engine == "ray":
        try:
            warning = check_staleness(config.staleness)
            remarks = [warning, *remarks] if warning else remarks
        except UsageError as error:
            refused = str(error)
            remarks.insert(0, f"This recipe would be refused: {refused}")
    return Explanation(config, measured, predicted, refused, remarks)


def inequalities(config: Config) -> list[tuple[str, bool]]:
    """What the settings of staleness must meet, with their numbers: to make progress, to fit, to drop nothing."""
    settings = config.staleness
    bound, every, deep = settings.max_staleness, settings.publish_every, depth(settings)
    spare = 1 if deep else 0
    return [
        (f"max_staleness >= publish_every - 1: {bound} >= {every - 1}", bound >= every - 1),
        (f"depth <= max_staleness: {deep} <= {bound}", deep <= bound),
        (
            f"depth + publish_every{'' if deep else ' - 1'} <= max_staleness, free of drops: "
            f"{deep + every - 1 + spare} <= {bound}",
            deep + every - 1 + spare <= bound,
        ),
    ]


def predict(config: Config, measured: Measured, plan: Plan) -> Predicted:
    """The run by its times: pure, nothing is measured here."""
    attack_s, step_s, of_step = measured.attack_s, measured.step_s, plan.shards_per_step
    steps = min(plan.total_steps, config.train.max_steps or plan.total_steps)
    shards = sum(plan.shards_by_epoch) * steps / plan.total_steps
    if plan.replays > 1:
        return _alone(config, 0.0, step_s, steps, shards * plan.replays)
    if config.engine != "ray":
        return _alone(config, attack_s, step_s, steps, shards)
    ratio = attack_s / step_s
    rate, bottleneck = shard_rate(config, measured)
    outstanding = outstanding_shards(config, ratio)
    settings = config.staleness
    deep = depth(settings)
    return Predicted(
        steps=steps,
        duration_s=shards / rate if rate else None,
        shards_per_second=rate,
        bottleneck=bottleneck,
        speedup=rate * (attack_s + step_s),
        ideal_speedup=ideal_speedup(config, ratio),
        useful_workers=ratio,
        outstanding_shards=outstanding,
        outstanding_bytes=outstanding * measured.payload_bytes,
        redis_maxmemory_bytes=redis_maxmemory(config, measured),
        mean_staleness=mean_staleness(config, measured),
        max_staleness=deep + settings.publish_every - 1 + (1 if deep else 0),
        shards_per_step_needed=max(1, ceil(_ageing(config, config.workers.count + 1) / WANTED_STALENESS)),
        latency_steps=measured.latency_s / (step_s * of_step),
    )


def _alone(config: Config, attack_s: float, step_s: float, steps: int, shards: float) -> Predicted:
    """One process attacks and trains in turn; or several do, and wait for one another at every step."""
    stale = config.simulated.staleness if config.engine == "simulated" else 0
    tickets, ranks = config.train.shards_per_step, config.ddp.ranks if config.engine == "ddp" else 1
    at_once = tickets / ceil(tickets / ranks)
    return Predicted(
        steps=steps,
        duration_s=shards * (attack_s + step_s) / at_once,
        shards_per_second=at_once / (attack_s + step_s),
        bottleneck="one process does all" if ranks == 1 else "the slowest rank of every step",
        speedup=at_once,
        ideal_speedup=float(ranks),
        useful_workers=attack_s / step_s,
        mean_staleness=stale,
        max_staleness=stale,
    )


def outstanding_shards(config: Config, ratio: float) -> int:
    """Permits: (d + 1)·M, under exchange d·M and what is in flight (section 4), of which the trainer has one and a
    worker as many as it attacks at once."""
    deep, of_step = depth(config.staleness), config.train.shards_per_step
    attackers = config.workers.count * tickets_at_once(config) + (1 if trainer_attacks(config) else 0)
    return deep * of_step + (max(of_step, min(attackers, ceil(ratio)), 1) if exchanges(config) else of_step)


def redis_maxmemory(config: Config, measured: Measured) -> int:
    """Bytes that the embedded server is given, or that another must have."""
    if config.queue.redis_url is None and config.queue.maxmemory_mb is not None:
        return config.queue.maxmemory_mb << 20
    return needed_memory(config, measured.shape, measured.snapshot_bytes)


def ideal_speedup(config: Config, ratio: float) -> float:
    """Over the synchronous loop, had everyone a device of his own: min(W + 1, 1 + attack/step).

    Where the trainer does not attack, W workers make W·(1 + step/attack) of it.
    """
    workers = config.workers.count
    attackers = workers + 1.0 if trainer_attacks(config) else workers * (1 + 1 / ratio)
    return min(attackers, 1 + ratio)


def shard_rate(config: Config, measured: Measured) -> tuple[float, str]:
    """Shards per second, and what bounds them: the workers' attack, the trainer's step or the cores."""
    ratio = measured.attack_s / measured.step_s
    speedup = ideal_speedup(config, ratio)
    rate = speedup / (measured.attack_s + measured.step_s)
    work = measured.attack_core_s + measured.step_core_s
    if config.ray.address == "local" and work > 0 and measured.cores / work < rate:
        return measured.cores / work, "the cores"
    return rate, "the trainer's step" if speedup >= 1 + ratio else "the workers' attack"


def mean_staleness(config: Config, measured: Measured) -> float:
    """Little's law: shards outstanding beside the step that is made, over shards per step.

    A saturated trainer has as many as are permitted, else those in flight and half a step's that wait for the rest.
    An attack in flight ages by its last step only where weights are exchanged; weights are (K − 1)/2 steps old.
    """
    ratio, of_step, settings = measured.attack_s / measured.step_s, config.train.shards_per_step, config.staleness
    permitted = outstanding_shards(config, ratio) - of_step
    workers = config.workers.count
    if workers >= ratio:
        in_flight = min(ratio, permitted)
        beside = permitted - in_flight + _ageing(config, in_flight)
    else:
        in_flight = workers + (1 if trainer_attacks(config) else 0)
        beside = min(_ageing(config, in_flight) + (of_step - 1) / 2, permitted)
    return beside / of_step + (settings.publish_every - 1) / 2


def _ageing(config: Config, in_flight: float) -> float:
    """Of shards in flight, what ages: all, or the last attack step of each."""
    attack = methods_of(config).attack
    return in_flight / (attack.steps * attack.restarts) if exchanges(config) else in_flight


def _remarks(config: Config, measured: Measured, predicted: Predicted) -> list[str]:
    asked = config.trainer.num_gpus + config.workers.num_gpus
    remarks = []
    if "cuda" not in measured.device and (asked > 0 or config.trainer.device == "cuda"):
        remarks.append("The recipe asks for GPUs and this machine has none: all times are of its CPU, not of a GPU.")
    if config.allocator.name != "none":
        remarks.append(
            f"allocator.name = {config.allocator.name!r} spares attack steps, as many as the network lets it: the "
            f"times are of full attacks, and fewer workers are useful. {_allocator_remark(config, measured)}"
        )
    if config.train.replays > 1:
        return [*remarks, "Free: the step's own pass is the attack, so the attack's time is not counted."]
    if config.engine == "ddp":
        return [
            *remarks,
            f"engine = ddp: ddp.ranks = {config.ddp.ranks} share the tickets of every step (train.shards_per_step = "
            f"{config.train.shards_per_step}). Equally fast ranks are assumed, and that averaging the gradients costs "
            f"nothing; with a slower one, or on fewer cores than ranks, all wait.",
        ]
    if config.engine != "ray":
        return [
            *remarks,
            f"engine = {config.engine} attacks in one process, without workers and queue; with engine = ray about "
            f"{predicted.useful_workers:.1f} workers would be useful.",
        ]
    remarks += [_bottleneck_remark(config, measured, predicted), *_warnings(config, measured, predicted)]
    return [*remarks, _peer_remark(config, predicted)]


def _of_methods(config: Config, measured: Measured, plan: Plan) -> list[str]:
    remarks = []
    if config.attack.start == "last":
        kept = plan.size * prod(measured.shape)
        remarks.append(
            f"attack.start = 'last' keeps {kept / 2**20:.1f} MiB of perturbations in the trainer's memory, and as much "
            f"in every checkpoint."
        )
    if config.objective.awp_gamma and config.objective.awp_warmup_epochs:
        remarks.append(
            f"The step was measured as in the first objective.awp_warmup_epochs = {config.objective.awp_warmup_epochs} "
            f"epochs; AWP about doubles it afterwards."
        )
    return remarks


def _allocator_remark(config: Config, measured: Measured) -> str:
    """Speed-ups at the fractions of Hua et al.: those of a trained network cannot be told beforehand."""
    methods = methods_of(config)
    attack, allocator = methods.attack, methods.allocator
    if not isinstance(attack, Attack) or allocator is None or allocator.classes != tuple(PAPER_CLASSES):
        return ""
    promised = theoretical_speedup(PAPER_CLASSES, allocator, attack)
    ceiling = speedup_ceiling(
        PAPER_CLASSES,
        allocator,
        attack,
        forward_s=measured.forward_s,
        attack_step_s=measured.attack_s / attack.steps,
        step_s=measured.step_s,
    )
    return (
        f"At Hua et al.'s fractions (.28 boundary, .54 robust, .18 outliers) equation 7 promises {promised:.2f} times "
        f"the speed of full attacks; forward pass, attack and step as measured here allow {ceiling:.2f}."
    )


def _bottleneck_remark(config: Config, measured: Measured, predicted: Predicted) -> str:
    useful = f"about {predicted.useful_workers:.1f} workers are useful (attack time over step time per shard)"
    if predicted.bottleneck == "the cores":
        work = measured.attack_core_s + measured.step_core_s
        return (
            f"The cores are the bottleneck: {measured.cores} of them do {measured.cores / work:.1f} shards/s at "
            f"{work:.3g} core-seconds a shard, however many workers; on devices of their own {useful}."
        )
    return (
        f"{predicted.bottleneck.capitalize()} is the bottleneck: {useful}, workers.count = {config.workers.count}"
        f"{', and the trainer attacks while it would wait' if trainer_attacks(config) else ''}."
    )


def _peer_remark(config: Config, predicted: Predicted) -> str:
    """Synchronous data parallelism on as many devices, had it all it needs."""
    if predicted.bottleneck == "the cores":
        return (
            "Workers and trainer share this machine's cores: engine = sync or ddp has the same cores without staleness "
            "and without a queue, and is the better choice where batches are not small."
        )
    devices = config.workers.count + 1
    ours = min(predicted.ideal_speedup, devices)
    verdict = (
        "about as fast as this engine at its best, without staleness and without a queue: the better choice there"
        if ours > 0.9 * devices
        else f"faster than this engine, whose trainer is saturated at {ours:.1f} times"
    )
    return (
        f"engine = ddp on as many devices (ddp.ranks = {devices}) would be {devices} times as fast as the synchronous "
        f"loop where all are equally fast, each has tickets of its own in every step and the attack's time falls with "
        f"them: {verdict}. It waits for its slowest device at every step and ends when one dies, this engine does not."
    )


def _warnings(config: Config, measured: Measured, predicted: Predicted) -> list[str]:
    settings, warnings = config.staleness, []
    needed, late = predicted.shards_per_step_needed, predicted.latency_steps
    if needed is not None and config.train.shards_per_step < needed:
        warnings.append(
            f"train.shards_per_step = {config.train.shards_per_step} is small for {config.workers.count} workers: "
            f"{needed} keep their mean staleness near {WANTED_STALENESS:g}."
        )
    if late is not None and late * settings.publish_every > 1:
        warnings.append(
            f"Latency of {1000 * measured.latency_s:.1f} ms (encode, transport, decode, load of a snapshot) is "
            f"{late:.1f} steps: staleness rises by as much. depth + publish_every + latency <= max_staleness "
            f"({depth(settings)} + {settings.publish_every} + {ceil(late)} <= {settings.max_staleness}) "
            f"{'holds' if depth(settings) + settings.publish_every + late <= settings.max_staleness else 'fails'}."
        )
    room, needs = predicted.redis_maxmemory_bytes, predicted.outstanding_bytes
    if room is not None and needs is not None and needs > room:
        warnings.append(
            f"Outstanding shards take {needs} bytes, Redis has {room}: workers will wait for memory. Raise "
            f"queue.maxmemory_mb, or lower staleness.depth or train.shards_per_step."
        )
    if measured.round_trip_s is None:
        warnings.append("No server could be started here: the transport is not in the latency.")
    elif config.queue.redis_url is not None or config.ray.address != "local":
        warnings.append("The transport was measured on this machine: the network's latency is not in it.")
    return warnings


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
