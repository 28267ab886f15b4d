"""Work in steps: it stands still in between, draws its own random numbers, and can be given up."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sparring.workers.stepwise import Stepwise

CPU = torch.device("cpu")


def test_the_work_stands_still_between_two_steps() -> None:
    seen: list[int] = []

    def work(pause: Callable[[], None]) -> str:
        for number in range(3):
            seen.append(number)
            pause()
        return "done"

    made = Stepwise(work, CPU)
    assert seen == []
    for number in range(3):
        assert made.advance() is None
        assert seen == list(range(number + 1))
    assert made.advance() == "done"


def test_neither_side_sees_what_the_other_draws() -> None:
    def work(pause: Callable[[], None]) -> Tensor:
        torch.manual_seed(5)
        first = torch.rand(2)
        pause()
        return torch.cat([first, torch.rand(2)])

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        wanted = torch.rand(4)
        torch.manual_seed(7)
        own = torch.rand(6)
        torch.manual_seed(7)
        made, drawn = Stepwise(work, CPU), [torch.rand(2)]
        assert made.advance() is None
        drawn.append(torch.rand(2))
        result = made.advance()
        drawn.append(torch.rand(2))
    assert result is not None and torch.equal(result, wanted) and torch.equal(torch.cat(drawn), own)


def test_an_exception_of_the_work_reaches_the_caller() -> None:
    def work(pause: Callable[[], None]) -> int:
        pause()
        raise ValueError("of the work")

    made = Stepwise(work, CPU)
    assert made.advance() is None
    with pytest.raises(ValueError, match="of the work"):
        made.advance()


@pytest.mark.parametrize("steps", [0, 1])
def test_work_that_is_given_up_ends_and_cleans_up(steps: int) -> None:
    ended: list[str] = []

    def work(pause: Callable[[], None]) -> int:
        try:
            while True:
                try:
                    pause()
                except Exception:  # as code of others may
                    ended.append("caught")
        finally:
            ended.append("cleaned up")

    made = Stepwise(work, CPU)
    for _ in range(steps):
        made.advance()
    made.close()
    assert not made._thread.is_alive() and ended == ["cleaned up"] * steps


def test_gradients_are_on_in_the_work_whatever_its_caller_does() -> None:
    with torch.no_grad():
        assert Stepwise(lambda pause: torch.is_grad_enabled(), CPU).advance() is True
