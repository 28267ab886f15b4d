"""What travels names its attempt, its ball and its owner, and cannot be changed on the way."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import torch

from sparring.attacks import NFGSM, PGD, Attack
from sparring.queue.messages import Key, Lease, Shard, Ticket

TICKET = Ticket(Key(1, 2, 0), 5, 0, (1, 2), "fingerprint", starts=(b"secret pixels", None))


def shard(attack: Attack) -> Shard:
    return Shard(Key(1, 2, 0), 5, 0, 0, attack.record, torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize(("attack", "radius"), [(PGD(0.1, norm="l2"), 0.1), (NFGSM(0.1, noise=2.0), 0.3)])
def test_the_radius_of_a_shard_is_that_of_the_ball_its_attack_stays_in(attack: Attack, radius: float) -> None:
    assert shard(attack).radius == pytest.approx(radius)


def test_keys_are_ordered_by_epoch_ticket_and_attempt() -> None:
    shuffled = [Key(1, 0, 0), Key(0, 2, 0), Key(0, 1, 1), Key(0, 1, 0)]
    assert sorted(shuffled) == shuffled[::-1]


def test_a_lease_is_owned_by_its_attempt_under_its_fence_whoever_works_on_it() -> None:
    lease = Lease(TICKET, 5, "w0")
    assert replace(lease, worker="w1").owner == lease.owner
    others = (replace(TICKET, fence=6), replace(TICKET, key=Key(1, 2, 1)))
    assert len({lease.owner, *(Lease(each, each.fence, "w0").owner for each in others)}) == 3


@pytest.mark.parametrize(
    "message", [TICKET, Lease(TICKET, 5, "w0"), shard(PGD(0.1))], ids=lambda each: type(each).__name__
)
def test_a_message_cannot_be_changed_and_shows_no_pixels(message: Any) -> None:
    with pytest.raises(FrozenInstanceError):
        message.fence = 6
    assert "tensor" not in repr(message) and "pixels" not in repr(message)
