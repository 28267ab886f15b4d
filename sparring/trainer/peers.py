"""With whom a process shares its steps: with nobody, or with the other ranks of a data-parallel run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor, nn

Objective = Callable[[], tuple[Tensor, Tensor]]  # mean loss; bool [N]: which attacked examples are classified correctly


class Totals(NamedTuple):
    """Of a whole step: mean loss, number of examples classified correctly, number of examples."""

    loss: float
    correct: int
    examples: int


class Peers(Protocol):
    """How a learner makes its forward pass and gets the totals of the whole step."""

    rank: int
    """Which of the processes this is, from 0 on."""

    share: float
    """Factor on this process's mean loss, so that the average gradient of all processes is that of the mean loss over
    all examples; 1 if all have the same number of examples."""

    def forward(self, objective: Objective) -> tuple[Tensor, Tensor]:
        """Call `objective`; with `combine`, the gradients of its loss are averaged over all processes."""

    def combine(self, parameters: Iterable[nn.Parameter]) -> None:
        """After the backward pass: make the parameters' gradients the average of all processes."""

    def mean(self, gradients: Sequence[Tensor]) -> Sequence[Tensor]:
        """The average over all processes of gradients, each process's being those of its mean loss times `share`."""

    def even_out(self) -> None:
        """Make the buffers of what is trained, such as batch norm's statistics, equal in all processes."""

    def totals(self, loss: Tensor, correct: Tensor) -> Totals:
        """The totals of all processes, given this one's loss (a scalar) and correct (bool [n])."""


class Alone:
    """One process that trains alone."""

    rank, share = 0, 1.0

    def forward(self, objective: Objective) -> tuple[Tensor, Tensor]:
        return objective()

    def combine(self, parameters: Iterable[nn.Parameter]) -> None:
        """There is nobody else."""

    def mean(self, gradients: Sequence[Tensor]) -> Sequence[Tensor]:
        return gradients

    def even_out(self) -> None:
        """There is nobody else."""

    def totals(self, loss: Tensor, correct: Tensor) -> Totals:
        return Totals(float(loss.detach()), int(correct.sum()), len(correct))
