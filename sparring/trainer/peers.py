"""With whom a process shares its steps: with nobody, or with the other ranks of a data-parallel run."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from torch import Tensor

Objective = Callable[[], tuple[Tensor, Tensor]]  # mean loss; bool [N]: which attacked examples are classified correctly


class Totals(NamedTuple):
    """Of a whole step: mean loss, number of examples classified correctly, number of examples."""

    loss: float
    correct: int
    examples: int


class Peers(Protocol):
    """How a learner makes its forward pass and gets the totals of the whole step."""

    share: float
    """Factor on this process's mean loss, so that the average gradient of all processes is that of the mean loss over
    all examples; 1 if all have the same number of examples."""

    def forward(self, objective: Objective) -> tuple[Tensor, Tensor]:
        """Call `objective` so that the gradients of its loss are averaged over all processes."""

    def totals(self, loss: Tensor, correct: Tensor) -> Totals:
        """The totals of all processes, given this one's loss (a scalar) and correct (bool [n])."""


class Alone:
    """One process that trains alone."""

    share = 1.0

    def forward(self, objective: Objective) -> tuple[Tensor, Tensor]:
        return objective()

    def totals(self, loss: Tensor, correct: Tensor) -> Totals:
        return Totals(float(loss.detach()), int(correct.sum()), len(correct))
