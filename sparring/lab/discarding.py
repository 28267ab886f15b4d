"""What an engine without permits loses: late work is thrown away, and the examples in it are not trained on.

The same engine on the virtual clock, but for its ledger: where ours issues no more than the bound allows, and makes
again what is late all the same, this one keeps all workers busy, lets late shards go and takes other examples.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from sparring.engines.virtual.cluster import Cluster
from sparring.engines.virtual.engine import VirtualLoop, loop_of
from sparring.queue.ledger import Ledger, Taken
from sparring.queue.messages import Key, Shard
from sparring.trainer.experiment import Experiment
from sparring.trainer.learner import StepResult
from sparring.trainer.session import Session

if TYPE_CHECKING:
    from sparring.lab.study import Point
    from sparring.lab.work import Place


class DiscardingLedger(Ledger):
    """Lets shards above a bound go, and never asks for them again."""

    bound: int

    def take(self, step: int) -> Taken | None:
        epoch = self._open.get(self.epoch)
        keys = []
        if epoch is not None:
            for number in [number for number, made in epoch.ready.items() if step - made > self.bound]:
                keys.append(Key(self.epoch, number, epoch.attempt[number]))
                del epoch.ready[number]
                epoch.done.add(number)
            self._close_finished()
        taken = super().take(step) or Taken()
        dropped = (*keys, *taken.dropped)
        return Taken(taken.keys, dropped) if taken.keys or dropped else None


class CountingLoop(VirtualLoop):
    """Counts the examples by class: of all shards that came, and of those that were trained on.

    discard_above: the bound of a `DiscardingLedger` in the place of the engine's own; None: the engine as it is.
    """

    def __init__(
        self, session: Session, experiment: Experiment, cluster: Cluster, discard_above: int | None = None
    ) -> None:
        super().__init__(session, experiment, cluster, None)
        self.trained, self.let_go = Counter[str](), Counter[str]()
        self.ages = Counter[int]()
        if discard_above is not None:
            of = self.ledger
            ledger = DiscardingLedger(
                shards_by_epoch=of.shards_by_epoch,
                shards_per_step=of.shards_per_step,
                depth=of.depth,
                max_staleness=of.max_staleness,
            )
            ledger.bound = discard_above
            self.tickets.ledger = ledger
            session.training.ledger = ledger.state

    def learn(self, shards: list[Shard], arrivals: list[int]) -> StepResult:
        for shard in shards:
            self.trained.update(shard.classes)
            self.ages[self.learner.step - shard.version] += 1
        return super().learn(shards, arrivals)

    def _discard(self, dropped: tuple[Key, ...]) -> None:
        for key in dropped:
            self.let_go.update(self.tickets.shards[key][0].classes)
        super()._discard(dropped)


def discarding(point: Point, place: Place) -> dict[str, Any]:
    """Train with permits or without, for `train.max_steps`; accuracy, and by class what was attacked and trained on.

    Options: discard_above, see `CountingLoop`; none of it: the engine as it is.
    """
    from sparring.config import load, new_run
    from sparring.evaluation.robustness import evaluate_by
    from sparring.trainer.experiment import build_experiment

    config = load(None, {**place.begun(point), "engine": "virtual"})
    experiment = build_experiment(config)
    session = Session(experiment, new_run(config), torch.device("cpu"))
    above = point.options.get("discard_above")
    loop = loop_of(session, experiment, partial(CountingLoop, session, experiment, discard_above=above))
    loop.run()
    model, threat, seed = session.learner.model, experiment.threat, config.train.seed
    found = evaluate_by(model, experiment.test(), threat, config.evaluation, seed)
    return {
        "clean_accuracy": found.clean_accuracy,
        "robust_accuracy": found.robust_accuracy,
        "samples": found.samples,
        "steps": session.learner.step,
        "virtual_seconds": loop.cluster.now,
        "staleness_mean": sum(age * count for age, count in loop.ages.items()) / loop.ages.total(),
        **shares(loop.trained, loop.let_go),
    }


def shares(trained: Counter[str], let_go: Counter[str]) -> dict[str, Any]:
    """Of the attacked examples: how many came too late, in all and of each class; and the share of the boundary
    examples in what was attacked and in what was trained on."""
    attacked = trained + let_go
    return {
        "late": let_go.total() / attacked.total(),
        **{f"late_{name}": let_go[name] / attacked[name] for name in sorted(attacked) if attacked[name]},
        "boundary_attacked": attacked["boundary"] / attacked.total(),
        "boundary_trained": trained["boundary"] / trained.total(),
    }
