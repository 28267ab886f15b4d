"""An attack without gradients: which weights it needs for each step, and how stale its shard is."""

from __future__ import annotations

import pytest

from sparring.engines.virtual.hollow import HollowAttack, Work
from sparring.queue.messages import Finish, Key, Lease, Ticket


def attack_on(work: Work, finish: Finish | None, last_steps: int) -> HollowAttack:
    ticket = Ticket(Key(0, 7, 0), 1, 4, (), "", finish=finish)
    return HollowAttack(Lease(ticket, 1, "worker-1"), work, last_steps)


@pytest.mark.parametrize(
    ("steps", "last", "needed"),
    [(4, 2, [4, 4, 4, 5, 5]), (4, 4, [4, 5, 5, 5, 5]), (1, 2, [4, 5]), (0, 2, [4])],
)
def test_preparation_and_head_need_the_older_weights_and_the_last_steps_the_newer(
    steps: int, last: int, needed: list[int]
) -> None:
    attack, found = attack_on(Work(8, (8,) * steps), Finish(5, 0.1), last), list[int]()
    while not attack.done:
        found.append(attack.needs)
        assert attack.at_gate == (attack.needs == 5)
        attack.go_on(attack.needs)
    assert found == needed


def test_a_shard_is_as_old_as_the_older_of_its_last_two_steps() -> None:
    attack = attack_on(Work(8, (8, 8, 8)), None, 0)
    for version in (4, 4, 6, 7):
        attack.go_on(version)
    shard = attack.shard("worker-1")
    assert (shard.version, shard.start_version, shard.key.number) == (6, 4, 7)
