"""Trainers tell each other what to train on and what has come; nothing is read twice, and nothing of another group."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from sparring.attacks import PGD
from sparring.queue.codec import CodecError
from sparring.queue.messages import Key, Missing, Shard
from sparring.queue.orders import Begin, End, Orders, Step, own
from sparring.queue.server import EmbeddedServer
from sparring.queue.transport import FencedOut, QueueLost, Transport
from tests.support.queues import opened

Make = Callable[..., Orders]


@pytest.fixture
def make(server: EmbeddedServer, request: pytest.FixtureRequest) -> Iterator[Make]:
    """The orders of one run, which is forgotten at the end."""
    run = request.node.name
    yield lambda group="one", **options: Orders(server.client(), run, group, timeout_s=5.0, **options)
    Transport(server.client(), run, lease_s=5.0, timeout_s=5.0).forget()


@pytest.fixture
def fence(server: EmbeddedServer, request: pytest.FixtureRequest) -> int:
    return opened(Transport(server.client(), request.node.name, lease_s=5.0, timeout_s=5.0))


def shard(fence: int, views: bool = False) -> Shard:
    attack = PGD(0.1).record._replace(radius=0.0) if views else PGD(0.1).record
    delta = torch.empty(0) if views else torch.full((2, 1, 4, 4), 0.1)
    seen = torch.ones(2, 2, 1, 4, 4, dtype=torch.uint8) if views else None
    return Shard(Key(0, 3, 1), fence, 5, 4, attack, delta, torch.tensor([1, 2]), "w", gradients=6, views=seen)


def test_orders_reach_every_rank_once_and_in_order(make: Make, fence: int) -> None:
    step = Step(7, (Key(0, 4, 0), Key(0, 5, 2)), (7, 6), (128, 12), 8.0, 1)
    leader, followers, of_another_group = make(), [make(), make()], make("another")
    for order in (Begin(fence), step, End()):
        leader.give(order, fence)
    for follower in followers:
        assert follower.next(1.0) == [Begin(fence), step, End()] and follower.next(0.0) == []
    assert of_another_group.next(0.0) == []


@pytest.mark.parametrize("views", [False, True])
def test_a_record_has_all_of_a_shard_but_its_product(make: Make, fence: int, views: bool) -> None:
    rank, leader = make(), make()
    made = shard(fence, views)
    rank.report(made)
    rank.report(made, whole=True)
    rank.report(Missing(Key(0, 1, 0), "payload_missing", "gone", fence))
    record, whole, missing = leader.reported(1.0)
    assert isinstance(record, Shard) and isinstance(whole, Shard)
    for name in ("key", "fence", "version", "start_version", "attack", "worker", "gradients"):
        assert getattr(record, name) == getattr(whole, name) == getattr(made, name)
    assert torch.equal(record.labels, made.labels)
    product, without = (each.views if views else each.delta for each in (whole, record))
    assert product is not None and without is not None
    assert product.shape[-2:] == (4, 4) and without.shape[-2:] == (1, 1)
    assert missing == Missing(Key(0, 1, 0), "payload_missing", "gone", fence)
    assert leader.reported(0.0) == []


def test_a_trainer_of_an_older_fence_orders_nothing(make: Make, fence: int) -> None:
    with pytest.raises(FencedOut):
        make().give(Begin(fence), fence - 1)
    assert make().next(0.0) == []


def test_a_server_restarted_empty_is_noticed(make: Make) -> None:
    with pytest.raises(QueueLost):
        make().give(End(), 1)


def test_what_is_no_order_is_refused(make: Make, fence: int) -> None:
    one = make()
    one._add("orders:one", fence, "order", b"\x93\xa4Step\x01\x02")
    with pytest.raises(CodecError, match="an order between trainers is malformed"):
        one.next(1.0)


def test_what_is_not_of_this_run_or_of_this_group_is_dropped(make: Make, fence: int) -> None:
    ours = make(secret=b"ours")
    make(secret=b"another").give(Begin(fence), fence)
    make(secret=b"ours", group="another").give(End(), fence)
    key = ours._prefix + ours._orders
    copied = ours._redis.xrange(ours._prefix + "orders:another")[0][1]
    ours._redis.xadd(key, copied)
    ours._redis.xadd(key, {"order": b"garbage", "more": b"garbage"})
    make(secret=b"ours").give(Begin(fence), fence)
    assert ours.next(1.0) == [Begin(fence)] and ours.next(0.0) == []


def test_an_order_that_is_copied_is_followed_once(make: Make, fence: int) -> None:
    giving, following = make(), make()
    giving.give(Begin(fence), fence)
    assert following.next(1.0) == [Begin(fence)]
    key = giving._prefix + giving._orders
    giving._redis.xadd(key, giving._redis.xrange(key)[0][1])
    giving.give(End(), fence)
    assert following.next(1.0) == [End()]


def test_each_rank_trains_on_its_own_part() -> None:
    keys = [Key(0, number, 0) for number in (4, 1, 3, 6)]
    assert [own(keys, rank, 2) for rank in range(2)] == [[0, 3], [1, 2]]
