"""The short form of the campaign with hostile messages, and that it is able to fail."""

from __future__ import annotations

import pytest

from tests.chaos import hostile


def found(messages: int, seed: int = 0) -> list[str]:
    return [each for tally in hostile.campaign(messages, seed).values() for each in tally.violations]


def test_no_hostile_message_is_believed_and_none_raises_what_is_not_documented() -> None:
    assert found(4000) == []


def test_a_checksum_that_is_not_looked_at_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostile, "verified", lambda secret, message: memoryview(message)[16:])
    assert any("a message that nobody has sent" in each for each in found(500))


def test_a_shard_that_is_not_compared_with_its_ticket_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostile, "object_to", lambda claims: "")
    assert any("another ticket, fence or version" in each for each in found(2000))
