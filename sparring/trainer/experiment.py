"""What a run trains on and what it trains, built from its settings."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from torch import nn

from sparring.config import Config
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
from sparring.errors import UsageError
from sparring.models import build
from sparring.trainer.plan import Plan
from sparring.trainer.pruning import planned
from sparring.trainer.schedules import learning_rate


@dataclass(frozen=True)
class Parts:
    """What is trained on and what is trained; built once, before a run's folder exists."""

    config: Config
    training: TrainingSet
    heldout: Dataset
    plan: Plan
    model: nn.Module


def prepare(config: Config) -> Parts:
    """Load the training data and build the model, with fresh weights whatever the run starts from.

    Raises:
        SparringError: anything about data, model or schedule that cannot work.
    """
    full, train = load(config.data, "train"), config.train
    if config.attack.name == "augmix":
        require_bytes(full, "attack.name = 'augmix'")
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
        _require_both(config, plan)
        training = Concatenated(training, extra)
    learning_rate(config.schedule, config.optimizer.lr)
    sizes = {phase.size for phase in config.data.phases}
    normalize = config.data.normalize
    model = build(config.model, full.shape, full.classes, train.seed, sizes=sizes, normalize=normalize)
    return Parts(config, training_set(config, training), heldout, plan, model)


def _require_both(config: Config, plan: Plan) -> None:
    """Refuse a share that rounds to no extra or no real examples."""
    if 0 < plan.extra_per_ticket < plan.batch_size:
        return
    raise UsageError(
        f"data.extra_fraction = {config.data.extra_fraction} of train.batch_size = {plan.batch_size} is "
        f"{plan.extra_per_ticket} extra and {plan.real_per_ticket} real examples; at least one of each is needed. "
        f"Change one of the two."
    )
