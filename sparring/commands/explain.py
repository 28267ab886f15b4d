"""Predict a run without making it, from a few seconds of measurements and Little's law.

`predict` is pure; `sparring.commands.calibration` makes the measurements. Times are in seconds per shard unless a name
says otherwise.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import ceil, prod
from typing import Any

from sparring.allocators import speedup_ceiling, theoretical_speedup
from sparring.attacks import Attack
from sparring.commands.calibration import Measured, measure
from sparring.commands.combinations import check_combinations
from sparring.commands.staleness import ageing, mean_staleness, outstanding_shards
from sparring.commands.verdict import Choice, choices, core_seconds, sentence
from sparring.config import (
    Config,
    StalenessSettings,
    check_staleness,
    depth,
    trainer_attacks,
)
from sparring.errors import UsageError
from sparring.queue.sizing import needed_memory
from sparring.trainer.experiment import build_experiment, methods_of
from sparring.trainer.plan import Plan

PAPER_CLASSES = {"outlier": 0.18, "boundary": 0.28, "robust": 0.54}  # TRADES on CIFAR-10, Hua et al.
TARGET_STALENESS = 2.0  # mean, in steps; `shards_per_step_needed` is computed for it
LABELS = {  # of each value in the table: meaning and unit
    "device": ("measured on", ""),
    "attack_s": ("attack", "s per shard"),
    "step_s": ("training step", "s per shard"),
    "latency_s": ("latency: encode, transport and decode; transport and load of a snapshot", "s"),
    "payload_bytes": ("payload", "bytes per shard"),
    "snapshot_bytes": ("snapshot of the weights", "bytes"),
    "steps": ("steps", ""),
    "duration_s": ("duration of training, about", "s"),
    "shards_per_second": ("throughput", "shards/s"),
    "bottleneck": ("bottleneck", ""),
    "speedup": ("speed-up over a synchronous loop with a worker's threads", "times"),
    "ideal_speedup": ("speed-up with a device for each process", "times"),
    "useful_workers": ("useful workers (attack / step)", ""),
    "outstanding_shards": ("most outstanding shards", "shards"),
    "outstanding_bytes": ("payload of the outstanding shards", "bytes"),
    "redis_maxmemory_bytes": ("Redis maxmemory", "bytes"),
    "mean_staleness": ("expected mean staleness", "steps"),
    "max_staleness": ("expected highest staleness", "steps"),
    "shards_per_step_needed": (f"shards per step for a mean staleness of {TARGET_STALENESS:g}", "shards"),
}


@dataclass(frozen=True)
class Predicted:
    """The predicted run. Staleness in steps, rates in shards per second. None: does not apply to the engine."""

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
    """Measurements, prediction and remarks. `refused`: why the run would not start, else None."""

    config: Config
    measured: Measured
    predicted: Predicted
    refused: str | None
    remarks: list[str]
    choices: list[Choice]

    @property
    def verdict(self) -> str:
        """Which engine to use, with the expected time of each."""
        return sentence(self.choices)

    @property
    def ok(self) -> bool:
        return self.refused is None

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {
            "ok": self.ok,
            "verdict": self.verdict,
            "choices": [{"name": each.name, **asdict(each)} for each in self.choices],
            "refused": self.refused,
            "inequalities": [
                {"inequality": text, "holds": holds} for text, holds in inequalities(self.config.staleness)
            ],
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
        checks = inequalities(self.config.staleness) if self.config.engine == "ray" else []
        return rows + [{"": text, "value": "holds" if holds else "FAILS"} for text, holds in checks]


def explain(config: Config) -> Explanation:
    """Measure on this machine for a few seconds and predict the run.

    Raises:
        SparringError: the data cannot be loaded, the model cannot be built, or settings contradict each other. Refused
            settings of staleness do not raise: see `Explanation.refused`.
    """
    check_combinations(config)
    experiment = build_experiment(config)
    _ = experiment.data_summary  # refuses data that `train` refuses
    measured = measure(experiment)
    predicted = predict(config, measured, experiment.plan)
    refused = None
    remarks = [*_remarks(config, measured, predicted), *_method_remarks(config, measured, experiment.plan)]
    if config.engine == "ray":
        try:
            warning = check_staleness(config.staleness)
            remarks = [warning, *remarks] if warning else remarks
        except UsageError as error:
            refused = str(error)
            remarks.insert(0, f"This recipe would be refused: {refused}")
    return Explanation(config, measured, predicted, refused, remarks, choices(config, measured, experiment.plan))


def inequalities(settings: StalenessSettings) -> list[tuple[str, bool]]:
    """The inequalities for the staleness settings, with numbers: to make progress, to be valid, to drop no shard."""
    bound, every, deep = settings.max_staleness, settings.publish_every, depth(settings)
    spare = 1 if deep else 0
    return [
        (f"max_staleness >= publish_every - 1: {bound} >= {every - 1}", bound >= every - 1),
        (f"depth <= max_staleness: {deep} <= {bound}", deep <= bound),
        (
            f"depth + publish_every{'' if deep else ' - 1'} <= max_staleness, so that no shard gets too old: "
            f"{deep + every - 1 + spare} <= {bound}",
            deep + every - 1 + spare <= bound,
        ),
    ]


def predict(config: Config, measured: Measured, plan: Plan) -> Predicted:
    """Predict the run from the measurements. Pure: nothing is measured here."""
    attack_s, step_s, of_step = measured.attack_s, measured.step_s, plan.shards_per_step
    steps = min(plan.total_steps, config.train.max_steps or plan.total_steps)
    shards = sum(plan.shards_by_epoch) * steps / plan.total_steps
    if plan.replays > 1:
        return _without_workers(config, 0.0, step_s, steps, shards * plan.replays)
    if config.yopo.passes:
        return _without_workers(config, *_yopo_times(config, attack_s, step_s), steps, shards)
    if config.engine != "ray":
        return _without_workers(config, attack_s, step_s, steps, shards)
    ratio = attack_s / step_s
    rate, bottleneck = shard_rate(config, measured)
    outstanding = outstanding_shards(config, ratio, measured.makes_views)
    settings = config.staleness
    deep, stale = depth(settings), mean_staleness(config, measured, rate)
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
        mean_staleness=stale,
        max_staleness=deep + settings.publish_every - 1 + (1 if deep else 0)
        if settings.finish == "off"
        else int(stale),
        shards_per_step_needed=max(1, ceil(ageing(config, config.workers.count + 1) / TARGET_STALENESS)),
        latency_steps=measured.latency_s / (step_s * of_step),
    )


def _yopo_times(config: Config, attack_s: float, step_s: float) -> tuple[float, float]:
    """Seconds of the full passes of YOPO's attack, and of its step; with one loss for both, its passes are the step."""
    yopo = config.yopo
    if methods_of(config).objective.on_attacked_alone:
        return 0.0, yopo.passes * step_s
    return attack_s / yopo.inner_steps, step_s


def _without_workers(config: Config, attack_s: float, step_s: float, steps: int, shards: float) -> Predicted:
    """Prediction for an engine without workers: one process attacks and trains in turn, or several ranks in step."""
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


def redis_maxmemory(config: Config, measured: Measured) -> int:
    """Memory limit of the embedded server, or memory that another server must have, in bytes."""
    if config.queue.redis_url is None and config.queue.maxmemory_mb is not None:
        return config.queue.maxmemory_mb << 20
    return needed_memory(config, measured.shape, measured.snapshot_bytes, measured.makes_views)


def ideal_speedup(config: Config, ratio: float) -> float:
    """Speed-up over the synchronous loop if every process had its own device: min(W + 1, 1 + attack/step).

    If the trainer does not attack, W·(1 + step/attack) takes the place of W + 1.
    """
    workers = config.workers.count
    attackers = workers + 1.0 if trainer_attacks(config) else workers * (1 + 1 / ratio)
    return min(attackers, 1 + ratio)


def shard_rate(config: Config, measured: Measured) -> tuple[float, str]:
    """Shards per second, and the bottleneck: the workers' attack, the trainer's step or the cores."""
    ratio = measured.attack_s / measured.step_s
    speedup = ideal_speedup(config, ratio)
    rate = speedup / (measured.attack_s + measured.step_s)
    of_cores = measured.cores / core_seconds(config, measured)
    if config.ray.address == "local" and measured.attack_core_s > 0 and of_cores < rate:
        return of_cores, "the cores"
    return rate, "the trainer's step" if speedup >= 1 + ratio else "the workers' attack"


def _remarks(config: Config, measured: Measured, predicted: Predicted) -> list[str]:
    asked = config.trainer.num_gpus + config.workers.num_gpus
    remarks = []
    if "cuda" not in measured.device and (asked > 0 or config.trainer.device == "cuda"):
        remarks.append("The recipe requests GPUs, but this machine has none: all times are of its CPU, not of a GPU.")
    if config.allocator.name != "none":
        remarks.append(
            f"allocator.name = {config.allocator.name!r} saves attack steps; how many depends on the trained network. "
            f"The times here are of full attacks, so fewer workers are useful. {_allocator_remark(config, measured)}"
        )
    if config.train.replays > 1:
        return [
            *remarks,
            "Free adversarial training: the backward pass of a step is also the attack, so no attack time is counted.",
        ]
    if config.yopo.passes:
        return [
            *remarks,
            f"YOPO-{config.yopo.passes}-{config.yopo.inner_steps}: its full passes are counted, the steps through the "
            f"first layer alone are not.",
        ]
    if config.engine == "ddp":
        return [
            *remarks,
            f"engine = ddp: ddp.ranks = {config.ddp.ranks} share the tickets of every step (train.shards_per_step = "
            f"{config.train.shards_per_step}). The prediction assumes that all ranks are equally fast and that "
            f"averaging the gradients takes no time. With a slower rank, or fewer cores than ranks, all ranks wait.",
        ]
    if config.engine != "ray":
        return [
            *remarks,
            f"engine = {config.engine} attacks in one process, without workers and queue. With engine = ray about "
            f"{predicted.useful_workers:.1f} workers would be useful.",
        ]
    remarks += [_bottleneck_remark(config, measured, predicted), *_warnings(config, measured, predicted)]
    return [*remarks, _peer_remark(config, predicted)]


def _method_remarks(config: Config, measured: Measured, plan: Plan) -> list[str]:
    remarks = []
    if config.attack.start == "last":
        kept = plan.size * prod(measured.shape)
        remarks.append(
            f"attack.start = 'last' keeps {kept / 2**20:.1f} MiB of perturbations in the trainer's memory, and as much "
            f"in every checkpoint."
        )
    if config.objective.awp_gamma and config.objective.awp_warmup_epochs:
        remarks.append(
            f"The step was measured without AWP, as in the first objective.awp_warmup_epochs = "
            f"{config.objective.awp_warmup_epochs} epochs. With AWP it takes about twice as long."
        )
    return remarks


def _allocator_remark(config: Config, measured: Measured) -> str:
    """Speed-ups at the fractions of Hua et al.; those of the network to be trained are not known in advance."""
    methods = methods_of(config)
    attack, allocator = methods.attack, methods.allocator
    if not isinstance(attack, Attack) or allocator is None or allocator.classes != tuple(PAPER_CLASSES):
        return ""
    theoretical = theoretical_speedup(PAPER_CLASSES, allocator, attack)
    ceiling = speedup_ceiling(
        PAPER_CLASSES,
        allocator,
        attack,
        forward_s=measured.forward_s,
        attack_step_s=measured.attack_s / attack.steps,
        step_s=measured.step_s,
    )
    return (
        f"At Hua et al.'s fractions (.28 boundary, .54 robust, .18 outliers) equation 7 gives a speed-up of "
        f"{theoretical:.2f} over full attacks; with the forward pass, attack and step measured here at most "
        f"{ceiling:.2f} is possible."
    )


def _bottleneck_remark(config: Config, measured: Measured, predicted: Predicted) -> str:
    useful = f"about {predicted.useful_workers:.1f} workers are useful (attack time over step time per shard)"
    if predicted.bottleneck == "the cores":
        work = core_seconds(config, measured)
        return (
            f"The cores are the bottleneck: with {work:.3g} core-seconds per shard, {measured.cores} cores make "
            f"{measured.cores / work:.1f} shards/s with any number of workers. With a device for each process {useful}."
        )
    return (
        f"{predicted.bottleneck.capitalize()} is the bottleneck: {useful}, workers.count = {config.workers.count}"
        f"{', and the trainer attacks while it would wait' if trainer_attacks(config) else ''}."
    )


def _peer_remark(config: Config, predicted: Predicted) -> str:
    """Comparison with synchronous data parallelism (ddp) on the same number of devices."""
    if predicted.bottleneck == "the cores":
        return (
            "Workers and trainer share this machine's cores: engine = sync or ddp uses the same cores without "
            "staleness and without a queue, and is the better choice unless batches are small."
        )
    devices = config.workers.count + 1
    ours = min(predicted.ideal_speedup, devices)
    verdict = (
        "about as fast as this engine at its best, without staleness and without a queue, so the better choice there"
        if ours > 0.9 * devices
        else f"faster than this engine, whose trainer is saturated at {ours:.1f} times"
    )
    return (
        f"engine = ddp on the same number of devices (ddp.ranks = {devices}) would be {devices} times as fast as the "
        f"synchronous loop, if all devices are equally fast and every step has a ticket for each: {verdict}. It waits "
        f"for its slowest device at every step and ends when one dies; this engine does not."
    )


def _warnings(config: Config, measured: Measured, predicted: Predicted) -> list[str]:
    settings, warnings = config.staleness, []
    needed, late = predicted.shards_per_step_needed, predicted.latency_steps
    if needed is not None and config.train.shards_per_step < needed:
        warnings.append(
            f"train.shards_per_step = {config.train.shards_per_step} is small for workers.count = "
            f"{config.workers.count}: with {needed} the mean staleness stays near {TARGET_STALENESS:g}."
        )
    if late is not None and late * settings.publish_every > 1:
        warnings.append(
            f"Latency of {1000 * measured.latency_s:.1f} ms (encode, transport and decode of a shard, transport and "
            f"load of a snapshot) is {late:.1f} steps, and staleness rises by that much. depth + publish_every + "
            f"latency <= max_staleness "
            f"({depth(settings)} + {settings.publish_every} + {ceil(late)} <= {settings.max_staleness}) "
            f"{'holds' if depth(settings) + settings.publish_every + late <= settings.max_staleness else 'fails'}."
        )
    limit, needs = predicted.redis_maxmemory_bytes, predicted.outstanding_bytes
    if limit is not None and needs is not None and needs > limit:
        warnings.append(
            f"Outstanding shards take {needs} bytes, but Redis has {limit}: workers will wait for memory. Raise "
            f"queue.maxmemory_mb, or lower staleness.depth or train.shards_per_step."
        )
    if measured.round_trip_s is None:
        warnings.append("No Redis server could be started here: the latency does not include the transport.")
    elif config.queue.redis_url is not None or config.ray.address != "local":
        warnings.append("The transport was measured on this machine: the latency does not include the network.")
    return warnings


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
