"""How to divide a number of devices between trainers and workers, and what the run then takes.

Every candidate is run on the virtual clock alone for a few steps (engines/virtual/clock.py); the fastest is proposed.
Pure, but for `explain_devices`, which measures where the recipe has no times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

import torch

from sparring.allocators import Allocator
from sparring.attacks import Attack
from sparring.commands.combinations import check_combinations
from sparring.commands.explain import PAPER_CLASSES
from sparring.commands.limits import Limit, limits_here
from sparring.commands.time_model import time_model
from sparring.config import Config, depth, last_steps, overridden
from sparring.engines.virtual.clock import clocked
from sparring.engines.virtual.hollow import Work
from sparring.engines.virtual.rivals import data_parallel, slices
from sparring.engines.virtual.times import allreduce_s, attack_step_s, step_s
from sparring.errors import UsageError
from sparring.observe.progress import duration
from sparring.randomness import generator
from sparring.trainer.experiment import build_experiment, methods_of
from sparring.trainer.plan import Plan

STEPS, WARM_UP = 24, 8  # of the clock; until the pipeline is full
SHORTLIST = 6  # candidates that are put on the clock, the best by the estimate
FLOAT_BYTES = 4
TIE = 1.05  # the simpler engine is named where it takes at most so much longer
TICKETS_EACH = 4  # most shards of a step for each device
TOLERANCE = 0.05  # by how much a split may change the examples of a step


@dataclass(frozen=True)
class Split:
    """Devices as trainers and workers, a step as so many shards of so many examples, and what comes of it.

    seconds: of the whole training; staleness: mean, in steps; ddp_seconds: of data parallelism on the same devices,
    None where there are more of them than examples in a step.
    """

    devices: int
    trainers: int
    workers: int
    shards_per_step: int
    batch_size: int
    seconds: float
    examples_per_second: float
    staleness: float
    ddp_seconds: float | None

    @property
    def better(self) -> str:
        """Which engine to use: ddp also where both are about as fast, since it is simpler."""
        if self.devices == 1:
            return "sync"
        return "ddp" if self.ddp_seconds is not None and self.ddp_seconds <= TIE * self.seconds else "ray"

    @property
    def best_seconds(self) -> float:
        """Seconds of that engine."""
        return self.ddp_seconds if self.better == "ddp" and self.ddp_seconds is not None else self.seconds

    def as_dict(self, price: float | None = None) -> dict[str, Any]:
        """Plain types, for JSON. price: of a device for an hour."""
        hours = self.best_seconds / 3600
        cost = {} if price is None else {"cost": price * self.devices * hours}
        return {**asdict(self), "better": self.better, "hours": hours, **cost}


def with_fresh_finish(config: Config) -> Config:
    """The recipe with a fresh finish, which ends at the loop's accuracy, where it does not name `staleness.finish` and
    can have one."""
    if "finish" in config.staleness.model_fields_set:
        return config
    fresh = overridden(config, {"staleness.finish": "auto"})
    try:
        check_combinations(split_of(fresh, 1, 1, fresh.train.shards_per_step))
    except UsageError:
        return config
    return fresh


def explain_devices(config: Config, counts: Sequence[int]) -> tuple[list[Split], list[Limit], str]:
    """The best split of each number of devices, what saturates first, and where the times are from: the recipe, or
    measured here.

    Raises:
        UsageError: no number of devices, or one below 1; settings that do not go with workers; an attack without steps.
    """
    if not counts or min(counts) < 1:
        raise UsageError(f"--devices {' '.join(map(str, counts))}: give numbers of at least 1, as --devices 1 2 4 8.")
    check_combinations(split_of(config, 1, max(counts) - 1, config.train.shards_per_step))
    experiment = build_experiment(config)
    given = config.virtual.model_fields_set - {"times", "jitter", "speeds", "events"}
    if not given:
        config = config.model_copy(update={"virtual": time_model(experiment)})
    size_bytes = sum(each.numel() * FLOAT_BYTES for each in experiment.model.parameters())
    source = "of [virtual] in the recipe" if given else "measured on this machine (`sparring calibrate`)"
    splits = [best_split(config, experiment.plan, count, size_bytes) for count in counts]
    return splits, limits_here(config, experiment), source


def rows_of(splits: Sequence[Split], price: float | None = None) -> list[dict[str, object]]:
    """For `observe.report.table`, in 80 columns: the other devices are workers; staleness is left out where it is 0."""
    stale = any(split.staleness for split in splits)
    return [
        {
            "devices": split.devices,
            "of them train": split.trainers,
            "shards of a step": f"{split.shards_per_step}×{split.batch_size}",
            "images per s": f"{split.examples_per_second:,.0f}",
            **({"stale": f"{split.staleness:.1f}"} if stale else {}),
            "time": duration(split.seconds),
            "ddp": "–" if split.ddp_seconds is None else duration(split.ddp_seconds),
            "use": split.better,
            **({} if price is None else {"cost": f"{split.as_dict(price)['cost']:.2f}"}),
        }
        for split in splits
    ]


def attacks_of(config: Config, recipe: Config) -> str:
    """How attacks follow the weights, in a few words. recipe: before `with_fresh_finish`."""
    steps, settings = methods_of(config).attack.steps, config.staleness
    if settings.finish != "off":
        chosen = config is not recipe
        hint = "; train with --staleness.finish auto, since the recipe says nothing of it" if chosen else ""
        return f"a fresh finish of {last_steps(settings, steps)} of {steps} steps, so staleness is 0{hint}"
    every = "step" if settings.publish_every == 1 else f"{settings.publish_every} steps"
    return (
        f"the newest weights, depth {depth(settings)}, published every {every}. What staleness costs in robustness is "
        f"not in these times; with --staleness.finish auto there is none (docs/scaling.md)"
    )


def best_split(config: Config, plan: Plan, devices: int, size_bytes: int) -> Split:
    """The fastest split of the devices, where a step has about as many examples as in the recipe.

    size_bytes: of the gradients. The times are those of `virtual` in the recipe.
    """
    candidates = sorted(candidates_for(config, devices), key=lambda each: estimated_s(each, size_bytes))
    return min(
        (predicted(each, plan, size_bytes) for each in candidates[:SHORTLIST]),
        key=lambda split: split.seconds,
    )


def candidates_for(config: Config, devices: int) -> list[Config]:
    """The recipe with every split of so many devices that is considered."""
    examples = config.train.batch_size * config.train.shards_per_step
    most = max(config.train.shards_per_step, TICKETS_EACH * devices)
    return [
        split_of(config, trainers, devices - trainers, count)
        for trainers in trainers_of(devices)
        for count in _shards(examples, devices)
        if trainers <= count <= most
    ]


def _shards(examples: int, devices: int) -> list[int]:
    """Numbers of shards a step to consider: the divisors of its examples, and multiples of the devices, or of all but
    one, where that hardly changes the examples."""

    def nearly(count: int) -> bool:
        return abs(round(examples / count) * count - examples) <= TOLERANCE * examples

    alike = [each for each in (devices, devices - 1) if each]
    multiples = {each * times for each in alike for times in range(1, TICKETS_EACH + 1) if each * times <= examples}
    divisors = {count for count in range(1, examples + 1) if examples % count == 0}
    return sorted(divisors | {count for count in multiples if nearly(count)})


def split_of(config: Config, trainers: int, workers: int, shards_per_step: int) -> Config:
    """The recipe on the virtual clock with these devices, and with about as many examples in a step."""
    examples = config.train.batch_size * config.train.shards_per_step
    changes = {
        "engine": "virtual",
        "trainer.count": trainers,
        "workers.count": workers,
        "train.shards_per_step": shards_per_step,
        "train.batch_size": round(examples / shards_per_step),
    }
    return overridden(config, changes)


def predicted(config: Config, plan: Plan, size_bytes: int) -> Split:
    """What a recipe on the virtual clock takes, and data parallelism on as many devices."""
    count, size, devices = (
        config.train.shards_per_step,
        config.train.batch_size,
        config.workers.count + config.trainer.count,
    )
    works = works_of(config, STEPS * count, size)
    run = clocked(config, works, size_bytes)
    examples, step = count * size, _pace(run.ends)
    asked = plan.batch_size * plan.shards_per_step
    steps = plan.total_steps * asked / examples
    return Split(
        devices=devices,
        trainers=config.trainer.count,
        workers=config.workers.count,
        shards_per_step=count,
        batch_size=size,
        seconds=run.ends[WARM_UP - 1] + (steps - WARM_UP) * step,
        examples_per_second=examples / step,
        staleness=sum(run.staleness) / len(run.staleness),
        ddp_seconds=plan.total_steps * ddp_step_s(config, asked, devices, size_bytes) if devices <= asked else None,
    )


def ddp_step_s(config: Config, examples: int, devices: int, size_bytes: int) -> float:
    """A step of data parallelism on equal devices."""
    methods = methods_of(config)
    if methods.allocator is None:
        ranks = [slices(examples, devices, methods.attack.steps * methods.attack.restarts)] * STEPS
    else:
        works = works_of(config, STEPS * devices, examples // devices)
        ranks = [works[first : first + devices] for first in range(0, len(works), devices)]
    return _pace(data_parallel(config, ranks, size_bytes=size_bytes))


def works_of(config: Config, tickets: int, examples: int) -> list[Work]:
    """The attacks on so many tickets. With an allocator of three classes as the shares of Hua et al. would have it."""
    methods = methods_of(config)
    attack, allocator = methods.attack, methods.allocator
    if allocator is None or not isinstance(attack, Attack) or allocator.classes != tuple(PAPER_CLASSES):
        return [Work(examples, (examples,) * (attack.steps * attack.restarts))] * tickets
    return [work_of(counts) for counts in _drawn(attack, allocator, tickets, examples)]


def work_of(counts: Sequence[int]) -> Work:
    """The attack on examples with so many steps each: those with few steps join in the last ones."""
    longest = max(counts)
    return Work(len(counts), tuple(sum(count >= longest - step for count in counts) for step in range(longest)))


def estimated_s(config: Config, size_bytes: int) -> float:
    """A rough time of a step, to choose what is put on the clock: all work over all devices, or what is in series."""
    model, train, settings = config.virtual, config.train, config.staleness
    trainers, devices = config.trainer.count, config.trainer.count + config.workers.count
    steps = methods_of(config).attack.steps
    attack_s = attack_step_s(model, train.batch_size)
    training_s = step_s(model, ceil(train.shards_per_step / trainers) * train.batch_size)
    training_s += allreduce_s(model, trainers, size_bytes)
    work_s = (train.shards_per_step * steps * attack_s + trainers * training_s) / devices
    if settings.finish == "off":
        return max(work_s, training_s)
    rounds = ceil(train.shards_per_step / devices)
    latency_s = model.publish_s + model.load_s + model.push_s if config.workers.count else 0.0
    return max(work_s, rounds * last_steps(settings, steps) * attack_s + training_s + latency_s)


def trainers_of(devices: int) -> list[int]:
    """Numbers of trainers to consider: powers of two, and all or all but one of the devices."""
    powers = [2**power for power in range(devices.bit_length()) if 2**power <= devices]
    return sorted({*powers, devices, max(1, devices - 1)})


def _pace(ends: Sequence[float]) -> float:
    """Seconds of a step once the pipeline is full."""
    return (ends[-1] - ends[WARM_UP - 1]) / (len(ends) - WARM_UP)


def _drawn(attack: Attack, allocator: Allocator, tickets: int, examples: int) -> list[list[int]]:
    steps = torch.tensor([budget.steps for budget in allocator.budgets(attack)])
    random = generator(0, "splits")
    classes = torch.multinomial(
        torch.tensor([*PAPER_CLASSES.values()]), tickets * examples, replacement=True, generator=random
    )
    counts: list[list[int]] = steps[classes].reshape(tickets, examples).tolist()
    return counts
