"""What rank 0 tells the others of a step, and what it trains on itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch.distributed import FileStore  # type: ignore[attr-defined]

from sparring.engines.asynchronous.leader import Leader, OneTrainer, leading
from sparring.engines.asynchronous.shared_step import LeaderState
from sparring.engines.ranks import RankLost, Ranks, joined
from sparring.errors import SparringError
from sparring.queue.messages import Controls, Key, Shard
from sparring.queue.orders import Begin, End, Orders, Step, record_of
from sparring.queue.server import EmbeddedServer
from sparring.queue.transport import Transport
from sparring.trainer.session import Session
from tests.support.queues import opened
from tests.support.sessions import session_in
from tests.support.shards import shard_of


class Scene(NamedTuple):
    session: Session
    leader: Leader
    follower: Orders
    fence: int


@pytest.fixture
def scene(tmp_path: Path, queue_server: EmbeddedServer, request: pytest.FixtureRequest) -> Iterator[Scene]:
    """Rank 0 of two, the other of which only reads."""
    session, run = session_in(tmp_path, train={"shards_per_step": 3, "batch_size": 10}), request.node.name
    fence = opened(Transport(queue_server.client(), run, lease_s=5.0, timeout_s=5.0))
    with joined(session.learner, 0, 1, FileStore(str(tmp_path / "meeting"), 1), timeout_s=5):
        ranks = Ranks[LeaderState](session.learner, 0)
        leader = Leader(session, ranks, Orders(queue_server.client(), run, "group", timeout_s=5.0))
        leader.begin(fence)
        ranks.count = 2
        yield Scene(session, leader, Orders(queue_server.client(), run, "group", timeout_s=5.0), fence)


def shards(session: Session) -> list[Shard]:
    """Of a step; those of the other rank are records."""
    made = [shard_of(session.experiment, Key(0, number, 0), Controls(0.2), 0) for number in (0, 1, 2)]
    return [shard if shard.key.number % 2 == 0 else record_of(shard) for shard in made]


def test_it_orders_a_step_and_takes_its_own_part(scene: Scene) -> None:
    taken = scene.leader.take(shards(scene.session), 0)
    scene.leader.end()
    begin, step, end = scene.follower.next(1.0)
    assert begin == Begin(scene.fence) and end == End()
    assert isinstance(step, Step) and step.version == 0 and step.sizes == (10, 10, 10)
    assert step.keys == tuple(Key(0, number, 0) for number in (0, 1, 2))
    assert [shard.key.number for shard in scene.leader.here(taken)] == [0, 2]
    batch = scene.leader.batch(taken)
    assert batch is not None and len(batch.labels) == 20


def test_a_queue_that_was_lost_starts_all_trainers_again(scene: Scene, queue_server: EmbeddedServer) -> None:
    queue_server.client().flushall()
    with pytest.raises(RankLost, match="All trainers start again"):
        scene.leader.take(shards(scene.session), 0)
    scene.leader.end()


def test_one_trainer_refreshes_its_shards_itself(tmp_path: Path) -> None:
    session = session_in(tmp_path)
    alone, (first, *_) = OneTrainer(session), shards(session)
    assert alone.take([first], 0) == [first] and alone.batch([first]) is None and alone.here([first]) == [first]
    (refreshed,) = alone.take([first], 2)
    assert refreshed.gradients == first.gradients + 2 * len(first.labels)
    assert session.state.refresh_steps == 2 and not torch.equal(refreshed.delta, first.delta)


def test_rank_0_waits_for_the_others_no_longer_than_it_may(tmp_path: Path, queue_server: EmbeddedServer) -> None:
    session = session_in(tmp_path, trainer={"count": 2}, workers={"start_timeout_s": 0.1})
    orders = Orders(queue_server.client(), "run", "group", timeout_s=5.0)
    store = FileStore(str(tmp_path / "meeting"), 2)
    with pytest.raises(SparringError, match=r"not all of trainer\.count = 2"), leading(session, orders, store):
        pass
