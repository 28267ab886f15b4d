"""What was wrong with the gradients of an attack: zero, or entries that are not finite."""

from __future__ import annotations

import torch
from torch import Tensor

from sparring.attacks.norms import largest_entries

ALL = slice(None)


class GradientCheck:
    """Which examples of an attack had a step with a gradient of zero, and which one with entries that are not finite.

    zero, non_finite: bool [N], on the device of the attack. No step waits for them: on a GPU they are read when the
    attack has ended.
    """

    def __init__(self, examples: int, device: torch.device) -> None:
        self.zero = torch.zeros(examples, dtype=torch.bool, device=device)
        self.non_finite = torch.zeros_like(self.zero)

    def note(self, gradient: Tensor, at: slice | Tensor = ALL) -> None:
        """Note the gradient of a step, [n, C, H, W], on the examples `at` (a slice, or int64 [n])."""
        largest = largest_entries(gradient)
        self.zero[at] = self.zero[at] | (largest == 0)
        self.non_finite[at] = self.non_finite[at] | ~largest.isfinite()

    def add(self, other: GradientCheck, to: Tensor) -> None:
        """Add what `other` has noted of examples that are those at `to`, int64 [n], here."""
        self.zero[to] |= other.zero
        self.non_finite[to] |= other.non_finite

    def copy(self, other: GradientCheck, to: Tensor, at: Tensor) -> None:
        """Take over what `other` has noted of its examples `at`, int64 [n], as that of the examples `to`."""
        self.zero[to], self.non_finite[to] = other.zero[at], other.non_finite[at]


def finite(gradient: Tensor) -> Tensor:
    """The gradient with 0 for each entry that is not finite: such a pixel makes no step, and the others make theirs."""
    return gradient.nan_to_num(0.0, 0.0, 0.0)
