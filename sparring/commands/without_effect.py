"""Settings that are set, but have no effect beside others: a run that leaves them out says so at its start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil
from typing import Any, NamedTuple, cast

from sparring import plugins
from sparring.allocators import by_name as allocators
from sparring.attacks import by_name as attacks
from sparring.config import Config, flatten, slots_of
from sparring.objectives import by_name as objectives
from sparring.trainer.plan import Plan
from sparring.trainer.schedules import SCHEDULES

ROUNDING = 1e-9  # of epochs


class Rule(NamedTuple):
    """These settings (names, or groups that end in a dot) have an effect only where `used`; `by` decides it."""

    settings: tuple[str, ...]
    by: str
    used: Callable[[Config], bool]


def is_one(*values: object) -> Callable[[object], bool]:
    """Whether a value is one of these."""
    return lambda value: value in values


def rule(settings: str, by: str, fits: Callable[[Any], bool]) -> Rule:
    """A rule about the value of one setting."""
    return Rule(tuple(settings.split()), by, lambda config: fits(flatten(config)[by]))


def _has_a_queue(config: Config) -> bool:
    return config.engine in ("ray", "virtual")


OF_A_QUEUE = (
    "workers.count staleness.max_staleness staleness.depth staleness.publish_every staleness.exchange "
    "staleness.trainer_attacks staleness.lockstep staleness.copy_after"
)
OF_STALE_SHARDS = "staleness.refresh staleness.age_half_life staleness.gap_every guard.staleness"

AUGMIX = ("augmix", attacks.BUILT_IN["augmix"])  # its views have no ε

RULES = (
    rule(OF_A_QUEUE, "engine", is_one("ray", "virtual")),
    rule(OF_STALE_SHARDS, "engine", is_one("ray", "virtual", "simulated")),
    rule("simulated.", "engine", is_one("simulated")),
    rule("simulated.final_staleness", "simulated.exchange", bool),
    rule("ddp.", "engine", is_one("ddp")),
    rule("virtual.", "engine", is_one("virtual")),
    Rule(("trainer.batch_norm",), "trainer.count", lambda config: _has_a_queue(config) and config.trainer.count > 1),
    Rule(("queue.wire",), "engine", lambda config: _has_a_queue(config) or config.staleness.finish != "off"),
    Rule(("allocator.hold_back",), "allocator.slots", lambda config: slots_of(config) > 0),
    rule("staleness.lead", "staleness.finish", lambda finish: finish != "off"),
    rule("staleness.copy_after", "staleness.finish", lambda finish: finish != "off"),
    rule("data.centre_share", "data.size", lambda size: size is not None),
    rule("data.extra_fraction", "data.extra", lambda extra: extra is not None),
    rule("model.pretrained", "model.name", lambda name: name.startswith("timm:")),
    rule("attack.warmup", "attack.warmup_epochs", lambda epochs: epochs is None),
    rule("augmix.", "attack.name", is_one(*AUGMIX)),
    Rule(("attack.warmup", "attack.warmup_epochs"), "attack.name", lambda config: config.attack.name not in AUGMIX),
    rule("objective.awp_warmup_epochs", "objective.awp_gamma", bool),
    rule("optimizer.momentum", "optimizer.name", is_one("sgd")),
    rule("optimizer.beta1 optimizer.beta2", "optimizer.name", is_one("adam", "adamw")),
    rule("optimizer.decay_norm", "optimizer.weight_decay", bool),
    rule("train.evaluate_every_epochs", "data.holdout", bool),
    rule("train.evaluate_samples", "train.evaluate_every_epochs", bool),
    rule("yopo.", "yopo.passes", bool),
    rule("pruning.", "pruning.name", lambda name: name != "none"),
    rule("guard.overfitting_every guard.overfitting_fall", "guard.overfitting", lambda guard: guard != "off"),
    rule("guard.overfitting_steps guard.overfitting_for", "guard.overfitting", is_one("rollback")),
    rule("guard.staleness_every guard.staleness_threshold guard.staleness_patience", "guard.staleness", bool),
    rule("evaluation.weights", "train.ema", lambda decay: decay is not None),
    rule("evaluation.steps evaluation.step_size evaluation.restarts", "evaluation.attack", is_one("pgd")),
    rule("evaluation.draw", "evaluation.samples", lambda samples: samples is not None),
)


def without_effect(config: Config) -> list[str]:
    """A sentence for each setting that decides over others which differ from their defaults."""
    set_to, default = flatten(config), flatten(Config())
    changed = [name for name, value in set_to.items() if value != default.get(name)]
    unused: dict[str, list[str]] = {}
    for each in RULES:
        if not each.used(config):
            unused.setdefault(each.by, []).extend(name for name in changed if _among(name, each))
    for by, names in _not_taken(config).items():
        unused.setdefault(by, []).extend(names)
    return [_sentence(by, names, set_to) for by, names in unused.items() if names]


def after_the_end(config: Config, plan: Plan) -> list[str]:
    """A sentence for each setting whose time comes after the run's last step."""
    steps = min(plan.total_steps, config.train.max_steps or plan.total_steps)
    last_epoch = ceil(plan.epochs_at(steps) - ROUNDING) - 1
    guard, staleness, train, checks = config.guard, config.staleness, config.train, config.checkpoint.every_steps
    measures_gap = config.engine in ("ray", "virtual", "simulated") and staleness.finish == "off"
    late = {
        "objective.awp_warmup_epochs": config.objective.awp_gamma > 0
        and config.objective.awp_warmup_epochs > last_epoch,
        "pruning.epoch": config.pruning.name != "none" and config.pruning.epoch > last_epoch,
        "train.evaluate_every_epochs": config.data.holdout > 0
        and train.evaluate_every_epochs > plan.epochs_at(steps) + ROUNDING,
        "guard.overfitting_every": guard.overfitting != "off" and min(guard.overfitting_every, checks) > steps,
        "guard.staleness_every": guard.staleness and measures_gap and guard.staleness_every > steps,
    }
    found = []
    if config.attack.start == "last" and last_epoch < 1:
        found.append("No effect: attack.start = 'last': in the only epoch no example has a last attack.")
    values, length = flatten(config), f"{steps} steps, {plan.epochs_at(steps):.3g} epochs"
    return found + [
        f"No effect: {name} = {values[name]!r} comes after the run's end ({length})."
        for name, is_late in late.items()
        if is_late
    ]


def _among(name: str, rule: Rule) -> bool:
    groups = tuple(each for each in rule.settings if each.endswith("."))
    return name != rule.by and (name in rule.settings or name.startswith(groups))


def _not_taken(config: Config) -> dict[str, list[str]]:
    """The settings of methods that the methods do not take, by the setting that names the method."""
    tables: dict[str, tuple[Mapping[str, str], tuple[str, ...]]] = {
        "attack": (attacks.BUILT_IN, ("noise",)),
        "objective": (objectives.BUILT_IN, ("beta", "passes", "align_lambda")),
        "allocator": (allocators.BUILT_IN, allocators.TAKEN),
        "schedule": (SCHEDULES, ("peak_at", "milestones", "factor")),
    }
    found = {}
    for group, (built_in, names) in tables.items():
        settings, by = getattr(config, group), f"{group}.name"
        factory = cast(Any, plugins.resolve(by, settings.name, built_in))
        given = {name: (getattr(settings, name), type(settings).model_fields[name].default) for name in names}
        found[by] = [f"{group}.{name}" for name in plugins.not_taken(by, factory, given)]
    return found


def _sentence(by: str, names: list[str], set_to: Mapping[str, Any]) -> str:
    shown = ", ".join(f"{name} = {set_to[name]!r}" for name in names)
    value = "none" if set_to[by] is None else repr(set_to[by])
    return f"No effect with {by} = {value}: {shown}."
