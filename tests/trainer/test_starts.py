"""Warm starts: every example from its own last perturbation, the same for every attempt at a ticket."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparring.attacks import PGD
from sparring.attacks.starts import packed, unpacked
from sparring.errors import SparringError
from sparring.queue.messages import Key, Shard
from sparring.trainer.starts import LastPerturbations

SHAPE = (1, 2, 2)
EPSILON = 0.1


def shard(key: Key, delta: Tensor, epsilon: float = EPSILON) -> Shard:
    return Shard(key, 0, 0, 0, PGD(epsilon).record, delta, torch.zeros(len(delta), dtype=torch.int64))


def random_delta(count: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return EPSILON * (torch.rand(count, *SHAPE, generator=random) * 2 - 1)


def test_an_example_begins_where_its_own_last_perturbation_ended() -> None:
    kept, delta = LastPerturbations(5, SHAPE), random_delta(3)
    kept.remember(shard(Key(0, 0, 0), delta), (4, 0, 2))
    start = kept.given(Key(1, 0, 0), (0, 1, 2, 4), EPSILON)
    assert start is not None and start.known.tolist() == [True, False, True, True]
    found = start.delta[start.known]
    assert (found - delta[[1, 2, 0]]).abs().max() <= EPSILON / 254 + 1e-7


def test_it_fills_as_much_of_a_ball_that_has_grown() -> None:
    kept, delta = LastPerturbations(3, SHAPE), random_delta(3)
    kept.remember(shard(Key(0, 0, 0), delta), (0, 1, 2))
    start = kept.given(Key(1, 0, 0), (0, 1, 2), 3 * EPSILON)
    assert start is not None and (start.delta - 3 * delta).abs().max() <= 3 * EPSILON / 254 + 1e-6
    assert start.delta.abs().max() <= 3 * EPSILON + 1e-6


def test_what_was_not_attacked_keeps_what_it_had() -> None:
    kept, delta = LastPerturbations(3, SHAPE), random_delta(3)
    kept.remember(shard(Key(0, 0, 0), delta), (0, 1, 2))
    before = kept.rows(Key(1, 0, 0), (0, 1, 2))
    later = random_delta(3, seed=1)
    later[1] = 0
    kept.remember(shard(Key(1, 0, 0), later), (0, 1, 2))
    after = kept.rows(Key(2, 0, 0), (0, 1, 2))
    assert after[1] == before[1] is not None and after[0] != before[0] and after[2] != before[2]
    fresh = LastPerturbations(3, SHAPE)
    fresh.remember(shard(Key(0, 0, 0), later), (0, 1, 2))
    assert fresh.rows(Key(1, 0, 0), (1,)) == (None,), "never attacked, so there is none"


def test_every_attempt_has_the_start_of_the_first_even_where_an_epoch_before_ends_meanwhile() -> None:
    kept = LastPerturbations(2, SHAPE)
    kept.remember(shard(Key(0, 0, 0), random_delta(2)), (0, 1))
    first = kept.rows(Key(2, 0, 0), (1, 0))
    kept.remember(shard(Key(1, 0, 0), random_delta(2, seed=1)), (0, 1))
    assert kept.rows(Key(2, 0, 1), (1, 0)) == first
    kept.remember(shard(Key(2, 0, 1), random_delta(2, seed=2)), (1, 0))
    assert kept.rows(Key(2, 0, 2), (1, 0)) != first, "once it is trained on it is forgotten"


def test_it_goes_on_from_a_checkpoint_and_without_one_from_nothing() -> None:
    kept, other = LastPerturbations(3, SHAPE), LastPerturbations(3, SHAPE)
    kept.remember(shard(Key(0, 0, 0), random_delta(2)), (0, 1))
    other.restore(kept.state())
    rows = kept.rows(Key(1, 0, 0), (0, 1, 2))
    assert other.rows(Key(1, 0, 0), (0, 1, 2)) == rows
    kept.remember(shard(Key(1, 0, 0), random_delta(2, seed=1)), (0, 1))
    assert other.rows(Key(1, 1, 0), (0, 1, 2)) == rows, "its own copy"
    other.restore(None)
    assert other.rows(Key(1, 0, 0), (0, 1, 2)) == (None, None, None)


def test_packed_rows_come_back_and_another_shape_is_refused() -> None:
    delta = random_delta(3)
    rows = tuple(row.tobytes() for row in packed(delta, EPSILON).numpy())
    start = unpacked(rows, SHAPE, EPSILON)
    assert start is not None and torch.equal(packed(start.delta, EPSILON), packed(delta, EPSILON))
    assert unpacked((), SHAPE, EPSILON) is None
    with pytest.raises(SparringError, match="4 bytes for images of"):
        unpacked(rows, (1, 3, 3), EPSILON)
