"""What all trainers of a run do alike in a step that they share: each refreshes and trains on its own part of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparring.engines.batch_norm import synchronise
from sparring.engines.ranks import Ranks
from sparring.objectives import Batch
from sparring.queue.messages import Shard
from sparring.queue.orders import Step, own
from sparring.trainer.guards.staleness import age_weights
from sparring.trainer.learner import Learner


class LeaderState(NamedTuple):
    """What rank 0 tells the others when they begin, beside weights and training state.

    kept: positions of the examples that pruning keeps, once it has decided; heads: the state of `trainer.finish.Heads`.
    """

    kept: list[int] | None
    heads: dict[str, Any]


def as_trainer(learner: Learner, rank: int) -> Ranks[LeaderState]:
    """Let the learner share its steps with the other trainers, with the batch norm that the recipe names."""
    if learner.config.trainer.batch_norm == "synchronised":
        synchronise(learner.trained)
    learner.peers = ranks = Ranks[LeaderState](learner, rank)
    return ranks


def own_batch(ranks: Ranks[LeaderState], step: Step, shards: Mapping[int, Shard]) -> Batch:
    """This rank's examples of a step, weighted by age as among all examples; `shards`: its own, by their places."""
    weights = age_weights([step.version - version for version in step.versions], step.sizes, step.half_life)
    of_shards: Sequence[Tensor] = () if weights is None else torch.split(weights, list(step.sizes))
    mine = own(step.keys, ranks.rank, ranks.count)
    batch = None
    if mine:
        own_weights = torch.cat([of_shards[place] for place in mine]) if of_shards else None
        batch = ranks.learner.batch([shards[place] for place in mine], own_weights)
    return ranks.taking(batch, sum(step.sizes), step.keys[0])


def refreshed(ranks: Ranks[LeaderState], step: Step, shards: Mapping[int, Shard]) -> dict[int, Shard]:
    """The shards with `step.refresh` more attack steps, which each rank makes on its own; of the others only the counts
    change."""
    if not step.refresh:
        return dict(shards)
    mine = own(step.keys, ranks.rank, ranks.count)
    made = {place: ranks.learner.refresh(shards[place], step.refresh) for place in mine}
    counts = torch.zeros(len(step.keys), 3, dtype=torch.float64)
    for place, shard in made.items():
        found = (shard.gradients, shard.zero_gradients, shard.non_finite_gradients)
        counts[place] = torch.tensor(found, dtype=torch.float64)
    of_all = ranks.summed(counts).int().tolist()

    def counted(place: int) -> Shard:
        gradients, zero, non_finite = of_all[place]
        return replace(shards[place], gradients=gradients, zero_gradients=zero, non_finite_gradients=non_finite)

    return {place: made.get(place) or counted(place) for place in shards}
