"""The gap between fresh and stale: a shard that is about to be trained on, attacked anew under the present weights."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from sparring.attacks import Attack, WarmStart, cross_entropy, frozen, perturbed
from sparring.objectives.predictions import correct
from sparring.queue.messages import Key, Shard
from sparring.trainer.guards.staleness import Decision, StalenessGuard
from sparring.trainer.learner import Learner
from sparring.workers.generator import produce
from sparring.workers.task import Task

log = logging.getLogger(__name__)
StartOf = Callable[[Key, float], WarmStart | None]  # of a ticket's attack, in a ball of this radius


class Gap(NamedTuple):
    """Fresh minus stale, on the examples that were attacked: accuracy (below 0: stale is weaker), mean cross-entropy,
    and the gradient evaluations that it took."""

    accuracy: float
    loss: float
    gradients: int


class Checked(NamedTuple):
    """A gap that has been measured; `acts`: the guard was asked; `decision`: what it did."""

    gap: Gap
    acts: bool
    decision: Decision | None = None


class GapMonitor:
    """Measures the gap every `staleness.gap_every` steps, and for the guard every `guard.staleness_every`."""

    def __init__(self, learner: Learner, guard: StalenessGuard, start_of: StartOf) -> None:
        self.learner, self.guard, self.start_of = learner, guard, start_of

    def check(self, shards: Sequence[Shard]) -> Checked | None:
        """Measure the oldest of a step's shards where that is due; the guard counts the gap by that shard's weight."""
        settings, every, step = self.guard.settings, self.learner.config.staleness.gap_every, self.learner.step
        acts = settings.staleness and step % settings.staleness_every == 0
        if not acts and not (every and step % every == 0):
            return None
        oldest = min(range(len(shards)), key=lambda number: shards[number].version)
        gap = measure(self.learner, shards[oldest], self.start_of(shards[oldest].key, shards[oldest].radius))
        if gap is None or not acts:
            return None if gap is None else Checked(gap, acts)
        weights = self.guard.weights([step - shard.version for shard in shards], [1] * len(shards))
        decision = self.guard.decide(-gap.accuracy * (1.0 if weights is None else float(weights[oldest])))
        if decision is not None:
            log.warning(
                "staleness guard %s at step %d: fresh minus stale accuracy %+.3f, loss %+.3f; now %s",
                decision,
                step,
                gap.accuracy,
                gap.loss,
                self.guard.remedies,
            )
        return Checked(gap, acts, decision)


def measure(learner: Learner, shard: Shard, start: WarmStart | None = None) -> Gap | None:
    """Make the shard anew under the present weights, as a worker that has them would, and compare what was attacked.

    The attack that the shard names, the same start (`start`: where one is given), random numbers and allocator: with
    weights that are not stale the gap is 0. Past the cliff of staleness that of accuracy is far below 0 (Bhat et al.,
    Fig. 5). None: nothing was attacked, or the shard has views, which do not depend on weights.
    """
    attack = learner.experiment.attack
    if shard.views is not None or not isinstance(attack, Attack):
        return None
    guarded = attack.at(shard.attack.epsilon).record != shard.attack
    now = learner.controls()._replace(epsilon=shard.attack.epsilon, pgd_steps=shard.attack.steps if guarded else 0)
    task = Task(shard.key, learner.plan.indices(shard.key.epoch, shard.key.number), start=start)
    renewed = produce(task, learner.context, now, learner.step)
    x, y = learner.clean(shard)
    deltas = [one.delta.to(x.device) for one in (renewed, shard)]
    attacked = (deltas[0] != 0).flatten(1).any(1) | (deltas[1] != 0).flatten(1).any(1)
    if not bool(attacked.any()):
        return None
    with frozen(learner.model), torch.no_grad():
        fresh, stale = (learner.model(perturbed(x, delta))[attacked] for delta in deltas)
    y = y[attacked]
    accuracies = [correct(logits, y).float().mean() for logits in (fresh, stale)]
    losses = [cross_entropy(logits, y).mean() for logits in (fresh, stale)]
    return Gap(float(accuracies[0] - accuracies[1]), float(losses[0] - losses[1]), renewed.gradients)
