"""What an attacker takes ahead with a fresh finish."""

from __future__ import annotations

import pytest

from sparring.attacks import PGD
from sparring.queue.messages import Controls, Finish, Key, Room
from sparring.workers.finish import Finisher
from sparring.workers.gate import Gate
from sparring.workers.task import AttackContext, Task
from tests.support.digits import half_trained, training_digits

DIGITS = training_digits()


class Here:
    """Weights by version; those below `until` have come."""

    def __init__(self) -> None:
        self.until = 1

    def has(self, order: tuple[int, int]) -> bool:
        return order[1] < self.until

    def newest(self, fence: int) -> int:
        return self.until - 1

    def load(self, order: tuple[int, int]) -> Controls:
        return Controls(0.1)


class Bench:
    """An attacker with two steps of an attack, the last of them under newer weights; `now`: its clock."""

    def __init__(self, share: int) -> None:
        self.versions, self.now = Here(), 0.0
        context = AttackContext(half_trained(DIGITS), DIGITS, PGD(0.1, steps=2), None, seed=0)
        self.finisher = Finisher(context, self.versions, 1)
        self.gate = Gate(self.finisher, share, 10.0, lambda: self.now)

    @property
    def room(self) -> Room:
        return self.gate.room

    def begin(self, number: int) -> None:
        """Take a ticket, and make what can be made of it."""
        self.finisher.begin(Task(Key(0, number, 0), (number, number + 1), 1), 0, Finish(1, 0.1))
        assert self.room == "none", "its head comes first"
        while not self.finisher.waits:
            self.finisher.advance()


@pytest.fixture
def bench() -> Bench:
    return Bench(share=2)


def test_it_takes_its_share_ahead_and_no_more(bench: Bench) -> None:
    assert bench.room == "any"
    bench.begin(0)
    assert bench.room == "any"
    bench.begin(1)
    rooms = [bench.room]
    assert rooms == ["again"]
    bench.versions.until = 2
    assert bench.finisher.advance() is not None and bench.finisher.advance() is not None
    assert bench.room == "any", "nothing is held"


def test_it_takes_more_after_it_has_waited_for_long(bench: Bench) -> None:
    """A ticket of the present step may be lost while all hold their shares of the next one."""
    bench.begin(0)
    bench.begin(1)
    rooms: list[Room] = []
    for bench.now in (0.0, 9.0, 10.0):
        rooms.append(bench.room)
    assert rooms == ["again", "again", "any"], "a ticket that was issued again is taken in any case"
    bench.begin(2)
    assert bench.room == "again", "it has just made a step: it waits anew"
