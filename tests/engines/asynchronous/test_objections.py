"""A shard that is not what its ticket asked for is refused by what it says of itself."""

from __future__ import annotations

import re
from typing import Any

import pytest

from sparring.attacks import PGD
from sparring.engines.asynchronous.objections import objection
from sparring.queue.codec import Claims
from sparring.queue.messages import Key, Ticket

RECORD = PGD(0.3, steps=4).record
RIGHT = Claims(Key(0, 1, 0), 1, version=5, start_version=4, attack=RECORD, examples=3, shape=(1, 28, 28))


def reason(**changes: Any) -> str:
    ticket = Ticket(Key(0, 1, 0), 1, 4, (7, 8, 9), "f")
    return objection(RIGHT._replace(**changes), ticket, (1, 28, 28), 6, lambda made: made == RECORD)


def test_what_was_asked_for_is_accepted() -> None:
    assert reason() == "" and reason(version=6, start_version=6) == ""


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"examples": 2}, "it has 2 examples, its ticket 3"),
        ({"shape": (1, 1, 1)}, r"shape \(1, 1, 1\)"),
        ({"version": 10**9}, "not within 4 to 6"),
        ({"start_version": 3}, "not within 4 to 6"),
        ({"start_version": 6}, "not within 4 to 6"),
        ({"attack": RECORD._replace(epsilon=1000.0)}, "not this recipe's attack"),
        ({"attack": RECORD._replace(norm="l2")}, "not this recipe's attack"),
    ],
)
def test_what_was_not_is_refused(changes: dict[str, Any], expected: str) -> None:
    assert re.search(expected, reason(**changes))
