"""One job at a time: its outcome is read before the next one starts, and nobody waits longer than allowed."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event

import pytest

from sparring.engines.asynchronous.background import Background


@pytest.fixture
def background() -> Iterator[Background[int]]:
    made: Background[int] = Background("test")
    yield made
    made.close(10)


def test_a_job_that_goes_on_is_settled_once_it_has_ended(background: Background[int]) -> None:
    go = Event()
    assert background.settle() is None
    background.start(lambda: 7 if go.wait(10) else 0)
    assert background.settle(wait=False) is None
    go.set()
    ended = background.settle()
    assert ended is not None and ended.result() == 7
    assert background.settle() is None, "each outcome is read once"


def test_the_next_job_waits_until_the_outcome_of_the_last_is_read(background: Background[int]) -> None:
    background.start(lambda: 1)
    with pytest.raises(RuntimeError, match="before the one before was settled"):
        background.start(lambda: 2)
    background.settle()
    background.start(lambda: 2)


def test_what_a_job_raises_is_its_outcome(background: Background[int]) -> None:
    background.start(lambda: 1 // 0)
    ended = background.settle()
    assert ended is not None and isinstance(ended.exception(), ZeroDivisionError)


def test_a_job_that_takes_too_long_is_given_up(background: Background[int]) -> None:
    go = Event()
    background.start(lambda: int(go.wait(10)))
    with pytest.raises(TimeoutError):
        background.settle(timeout_s=0.01)
    assert background.settle() is None, "it is not waited for again"
    go.set()
