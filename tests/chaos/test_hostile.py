"""The short form of the campaign with hostile messages, and that it is able to fail."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from sparring.queue import orders, pieces, transport
from tests.chaos import hostile


def found(messages: int, seed: int = 0) -> list[str]:
    return [each for tally in hostile.campaign(messages, seed).values() for each in tally.violations]


def test_no_hostile_message_is_believed_and_none_raises_what_is_not_documented() -> None:
    assert found(4000) == []


def test_a_checksum_that_is_not_looked_at_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostile, "verified", lambda secret, message: memoryview(message)[16:])
    assert any("a message that nobody has sent" in each for each in found(500))


@pytest.mark.parametrize(
    ("module", "name", "replacement", "found_in"),
    [
        (transport, "verified", lambda secret, message: memoryview(message)[16:], "damaged"),
        (transport, "compare_digest", lambda one, other: True, "weights that nobody has signed"),
        (pieces, "verified", lambda secret, message: memoryview(message)[16:], "a damaged piece was taken"),
        (orders, "compare_digest", lambda one, other: True, "an order that nobody gave"),
    ],
)
def test_a_queue_that_looks_at_no_checksum_would_be_found(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, replacement: Callable[..., Any], found_in: str
) -> None:
    monkeypatch.setattr(module, name, replacement)
    assert any(found_in in each for each in found(4000))


def test_a_shard_that_is_not_compared_with_its_ticket_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostile, "object_to", lambda claims: "")
    assert any("another ticket, fence or version" in each for each in found(2000))
