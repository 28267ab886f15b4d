"""The part of a step that one rank makes, as the second of two."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.distributed import FileStore  # type: ignore[attr-defined]

from sparring.engines.asynchronous.shared_step import LeaderState, own_batch, refreshed
from sparring.engines.ranks import Ranks, joined
from sparring.queue.messages import Controls, Key, Shard
from sparring.queue.orders import Step
from sparring.trainer.guards.staleness import age_weights
from sparring.trainer.session import Session
from tests.support.sessions import session_in
from tests.support.shards import shard_of

NUMBERS = (1, 2, 3)


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return session_in(tmp_path, train={"shards_per_step": 3, "batch_size": 10})


@pytest.fixture
def ranks(session: Session, tmp_path: Path) -> Iterator[Ranks[LeaderState]]:
    with joined(session.learner, 0, 1, FileStore(str(tmp_path / "meeting"), 1), timeout_s=5):
        made = Ranks[LeaderState](session.learner, 0)
        made.rank, made.count = 1, 2
        yield made


def step(half_life: float | None = None, refresh: int = 0) -> Step:
    return Step(4, tuple(Key(0, number, 0) for number in NUMBERS), (4, 2, 1), (10, 10, 10), half_life, refresh)


def own_shards(session: Session) -> dict[int, Shard]:
    """Those at places 0 and 2 are of its part."""
    return {place: shard_of(session.experiment, Key(0, NUMBERS[place], 0), Controls(0.2), 0) for place in (0, 2)}


def test_its_examples_have_the_weights_that_they_have_among_all(session: Session, ranks: Ranks[LeaderState]) -> None:
    shards = own_shards(session)
    batch = own_batch(ranks, step(half_life=2.0), shards)
    of_all = age_weights([0, 2, 3], [10, 10, 10], 2.0)
    assert of_all is not None and batch.weights is not None
    assert torch.equal(batch.weights, torch.cat([of_all[:10], of_all[20:]]))
    assert torch.equal(batch.x_adv, session.learner.batch([shards[0], shards[2]]).x_adv)
    assert ranks.share == pytest.approx(20 * 2 / 30) and own_batch(ranks, step(), shards).weights is None


def test_without_a_shard_it_takes_part_with_weight_0(session: Session, ranks: Ranks[LeaderState]) -> None:
    other = Step(4, (Key(0, 2, 0),), (4,), (10,))
    batch = own_batch(ranks, other, {})
    assert ranks.share == 0 and torch.equal(batch.x, batch.x_adv) and len(batch.labels) == 10


def test_each_refreshes_its_own_and_counts_go_to_all(session: Session, ranks: Ranks[LeaderState]) -> None:
    shards = own_shards(session)
    assert refreshed(ranks, step(), shards) == shards
    made = refreshed(ranks, step(refresh=2), shards)
    for place, shard in shards.items():
        assert made[place].gradients == shard.gradients + 2 * 10
        assert not torch.equal(made[place].delta, shard.delta)
