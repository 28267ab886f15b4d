"""What the queue's server must hold, and which way weights of what size go."""

from __future__ import annotations

import pytest

from sparring.config import from_tree
from sparring.errors import UsageError
from sparring.queue.sizing import kept_snapshots, needed_memory, outstanding_bytes, through_object_store

SHAPE = (1, 28, 28)


def test_snapshots_that_travel_through_the_queue_count() -> None:
    through_redis = from_tree({"queue": {"weights": "redis"}})
    large = 100 << 20
    assert needed_memory(through_redis, SHAPE, large) - needed_memory(through_redis, SHAPE, 0) >= 3 * large
    assert needed_memory(from_tree({}), SHAPE, large) == needed_memory(from_tree({}), SHAPE, 0)
    lockstep = from_tree({"staleness": {"lockstep": True, "depth": 20, "max_staleness": 20}})
    small = 4 << 20
    assert kept_snapshots(lockstep.staleness) == 22
    assert needed_memory(lockstep, SHAPE, small) - needed_memory(lockstep, SHAPE, 0) >= 23 * small


def test_tickets_that_carry_starts_count() -> None:
    plain, warm = from_tree({}), from_tree({"attack": {"start": "last"}})
    tickets = 16 * plain.train.batch_size * 28 * 28  # at least so many are allowed for
    assert needed_memory(warm, SHAPE, 0) - needed_memory(plain, SHAPE, 0) >= tickets


def test_the_size_decides_the_way_unless_it_is_told() -> None:
    auto, redis, objects = (from_tree({"queue": {"weights": way}}).queue for way in ("auto", "redis", "object_store"))
    assert [through_object_store(auto, size) for size in (4 << 20, (4 << 20) + 1)] == [False, True]
    assert not through_object_store(redis, 5 << 20) and through_object_store(objects, 1)
    with pytest.raises(UsageError, match=r"queue.weights = 'redis' with 300 MiB"):
        through_object_store(redis, 300 << 20)


def test_room_is_made_for_the_largest_images_of_all_phases() -> None:
    def needed(**data: object) -> int:
        return needed_memory(from_tree({"data": data}), (3, 32, 32), 0)

    small, large = ([{"until": 0.5, "size": size}] for size in (16, 64))
    assert needed(phases=small) == needed()
    assert needed(phases=large) == needed_memory(from_tree({}), (3, 64, 64), 0)


@pytest.mark.parametrize("wire", ["int8", "exact"])
def test_views_count_as_two_images_whatever_perturbations_travel_as(wire: str) -> None:
    method = {"attack": {"name": "augmix"}, "objective": {"name": "augmix"}}
    attacked, augmented = from_tree({}), from_tree({"queue": {"wire": wire}, **method})
    more = outstanding_bytes(augmented, SHAPE, views=True) - outstanding_bytes(attacked, SHAPE)
    shards, scales = (3 + 1) * 1 + 16, 4 * 64  # which int8 may need, and views do not
    assert more == shards * (64 * 28 * 28 - scales)
