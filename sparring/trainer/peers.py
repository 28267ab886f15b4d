"""Who shares a step: nobody, or the other ranks of a data-parallel run."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from torch import Tensor

Objective = Callable[[], tuple[Tensor, Tensor]]  # the mean loss of a step, and bool [N]: what counts as robust


class Totals(NamedTuple):
    """Mean loss, number classified correctly and number of the examples of a step, over all who share it."""

    loss: float
    correct: int
    examples: int


class Peers(Protocol):
    """How a learner makes its pass and learns what came of the whole step."""

    share: float
    """What the own mean loss is multiplied by, so that the mean gradient over all is that of the mean loss over all
    examples: 1 where everybody has as many."""

    def forward(self, objective: Objective) -> tuple[Tensor, Tensor]:
        """objective(), so that the gradients of its loss become the mean over all."""

    def totals(self, loss: Tensor, correct: Tensor) -> Totals:
        """Of the own loss (a scalar) and bool [n], those of all."""


class Alone:
    """One process trains."""

    share = 1.0

    def forward(self, objective: Objective) -> tuple[Tensor, Tensor]:
        return objective()

    def totals(self, loss: Tensor, correct: Tensor) -> Totals:
        return Totals(float(loss.detach()), int(correct.sum()), len(correct))
