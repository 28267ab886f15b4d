"""A recipe resolved into data, plan, model, attack, objective and allocator."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from math import ceil

import torch
from torch import nn

from sparring.allocators import Allocator
from sparring.allocators.by_name import allocator_of
from sparring.attacks import Attack
from sparring.attacks.augmix import Threat
from sparring.attacks.by_name import attack_of, threat_of
from sparring.config import Config, DataSettings
from sparring.data import (
    Concatenated,
    Dataset,
    TrainingSet,
    load,
    load_extra,
    require_bytes,
    split_holdout,
    training_set,
)
from sparring.data.summary import DataSummary, summarise
from sparring.errors import SparringError, UsageError
from sparring.models import adopt, build, require_logits
from sparring.models.arrays import size_bytes
from sparring.models.forward import for_training
from sparring.objectives import Helper, Objective
from sparring.objectives.by_name import objective_of
from sparring.plugins import described
from sparring.randomness import generator
from sparring.trainer.history import networks_of
from sparring.trainer.plan import Plan, planned
from sparring.trainer.schedules import learning_rate
from sparring.workers.task import AttackContext


@dataclass(frozen=True)
class Methods:
    """What a recipe names beside data and model."""

    objective: Objective
    attack: Threat
    allocator: Allocator | None


@dataclass(frozen=True)
class Live:
    """Objects passed from Python in the place of what the recipe names; helper: that of the objective, made already."""

    model: nn.Module | None = None
    training: Dataset | None = None
    test: Dataset | None = None
    helper: Helper | None = None


NOTHING_PASSED = Live()


@dataclass(frozen=True)
class Experiment:
    """All that a run is made of; built once, before the run's folder exists.

    attack: at its full ε; helper: the objective's network, where it has one; live: what was passed from Python.
    """

    config: Config
    training: TrainingSet
    heldout: Dataset
    plan: Plan
    model: nn.Module
    objective: Objective
    attack: Threat
    allocator: Allocator | None
    helper: Helper | None = None
    live: Live = NOTHING_PASSED

    def test(self) -> Dataset:
        """The test set, which is read when it is asked for."""
        return load_test(self.config.data, self.live)

    @cached_property
    def data_summary(self) -> DataSummary:
        """What is in the data; raises a UsageError where training and test set do not fit each other."""
        return summarise(
            f"data.name = {self.config.data.name!r}",
            self.training,
            self.test(),
            heldout=len(self.heldout),
            extra=self.plan.extra,
            extra_share=self.plan.extra_fraction,
        )

    @property
    def method(self) -> str:
        """Objective, attack and allocator in a line, for the tables."""
        attack, allocator = self.attack, self.config.allocator.name
        ball = f", {attack.norm} {attack.epsilon:.4g}" if attack.radius else ""
        allocated = "" if self.allocator is None else f", {allocator}"
        yopo = self.config.yopo
        steps = f"{attack.steps} step{'' if attack.steps == 1 else 's'}"
        steps = f"yopo-{yopo.passes}-{yopo.inner_steps}" if yopo.passes else steps
        weights = self.config.objective.awp_gamma
        awp = f" + awp {weights:g}" if weights else ""
        return f"{self.config.objective.name}{awp}, {self.config.attack.name} ({steps}{ball}){allocated}"

    @property
    def threat(self) -> Attack:
        """The attack whose ball the model is evaluated in."""
        return threat_of(self.config.attack, self.attack)

    @property
    def changing_helper(self) -> nn.Module | None:
        """A helper network that is trained beside the model and that the attack compares with: it is published."""
        return self.helper.network if self.helper is not None and self.helper.trained and self.needs_helper else None

    @property
    def snapshot_bytes(self) -> int:
        """Of what is published: the model's weights, and those of a helper that changes."""
        return size_bytes(self.model) + (0 if self.changing_helper is None else size_bytes(self.changing_helper))

    @property
    def queued(self) -> tuple[tuple[int, int, int], int, bool]:
        """What goes through the queue: shape of an image (C, H, W), bytes of a snapshot, whether shards carry views."""
        return self.training.shape, self.snapshot_bytes, self.attack.makes_views

    @property
    def needs_helper(self) -> bool:
        """The attack compares with the helper network's predictions."""
        return isinstance(self.attack, Attack) and self.attack.maximised.targets == "helper"

    def for_workers(self) -> Live:
        """What workers need of the objects passed from Python; the helper network where the attack compares with it."""
        return Live(self.live.model, self.live.training, None, self.helper if self.needs_helper else None)

    def context(self, model: nn.Module | None = None, helper: nn.Module | None = None) -> AttackContext:
        """What tasks are attacked with; by default under the model and the helper that are trained."""
        own_helper = None if self.helper is None else self.helper.network
        return AttackContext(
            self.model if model is None else model,
            self.training,
            self.attack,
            self.allocator,
            self.config.train.seed,
            own_helper if helper is None else helper,
        )

    def attacker(self) -> tuple[nn.ModuleDict, AttackContext]:
        """Networks of its own for attacks under other weights than the trained ones, and the context of the attacks."""
        model = copy.deepcopy(self.model).eval().requires_grad_(False)
        model = for_training(model, self.config.model)
        helper = copy.deepcopy(self.changing_helper)
        helper = None if helper is None else helper.eval().requires_grad_(False)
        return networks_of(model, helper), self.context(model, helper)


def methods_of(config: Config) -> Methods:
    """The objective, attack and allocator that the recipe names.

    Raises:
        UsageError: one of them cannot be had.
    """
    allocator, passes = allocator_of(config.allocator), config.objective.passes
    if passes == "auto":
        passes = "reference" if allocator is None else "single_pass"
    objective = objective_of(config.objective, config.augmix, passes=passes)
    return Methods(objective, attack_of(config.attack, config.augmix, objective), allocator)


def build_experiment(config: Config, live: Live = NOTHING_PASSED, *, with_helper: bool = True) -> Experiment:
    """Load the training data, resolve the methods, and build the model with fresh weights whatever the run starts from.

    Args:
        live: what takes the place of the recipe's data and model; a model keeps the weights that it has.
        with_helper: make the objective's helper network, where it has one and none is passed.

    Raises:
        SparringError: anything about data, model or methods that cannot work.
    """
    methods, train = methods_of(config), config.train
    full = load(config.data, "train") if live.training is None else live.training
    if methods.attack.makes_views:
        require_bytes(full, f"attack.name = {config.attack.name!r}")
    training, heldout = split_holdout(full, config.data.holdout)
    extra = None if config.data.extra is None else load_extra(config.data, full)
    plan = Plan(
        len(training),
        train.batch_size,
        train.shards_per_step,
        ceil(train.epochs / train.replays),
        train.seed,
        planned(config.pruning, ceil(train.epochs / train.replays), len(training)),
        train.replays,
        extra=0 if extra is None else len(extra),
        extra_fraction=config.data.extra_fraction,
    )
    if extra is not None:
        _require_both(config.data.extra_fraction, plan)
        training = Concatenated(training, extra)
    learning_rate(config.schedule, config.optimizer.lr)
    sizes = {phase.size for phase in config.data.phases}
    normalize = config.data.normalize
    if live.model is None:
        model = build(config.model, full.shape, full.classes, train.seed, sizes=sizes, normalize=normalize)
    else:
        model = adopt(live.model, full.shape, full.classes, sizes=sizes, normalize=normalize)
    return Experiment(
        config,
        training_set(config, training),
        heldout,
        plan,
        model,
        methods.objective,
        methods.attack,
        methods.allocator,
        live.helper or (_helper(config, methods.objective, full) if with_helper else None),
        live,
    )


def _helper(config: Config, objective: Objective, data: Dataset) -> Helper | None:
    """Initialised from the seed, but not as the model is; the global random state stays as it was.

    Raises:
        UsageError: it cannot be made, or gives no logits of the data's classes.
    """
    named = f"objective.name = {config.objective.name!r}: its helper network"
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(generator(config.train.seed, "helper").initial_seed())
        try:
            helper = objective.helper(data.shape, data.classes)
        except SparringError:
            raise
        except Exception as error:  # whatever the user's own code raises
            raise UsageError(f"{named} cannot be made ({described(error)}).") from error
    if helper is not None:
        require_logits(named, helper.network, data.shape, data.classes)
    return helper


def load_test(data: DataSettings, live: Live = NOTHING_PASSED) -> Dataset:
    """The test set of a run."""
    return load(data, "test") if live.test is None else live.test


def _require_both(extra_fraction: float, plan: Plan) -> None:
    """Refuse a share that rounds to no extra or no real examples."""
    if 0 < plan.extra_per_ticket < plan.batch_size:
        return
    raise UsageError(
        f"data.extra_fraction = {extra_fraction} of train.batch_size = {plan.batch_size} is "
        f"{plan.extra_per_ticket} extra and {plan.real_per_ticket} real examples; at least one of each is needed. "
        f"Change one of the two."
    )
