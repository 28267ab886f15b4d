"""Tests on who survives which attack: a stronger one must not leave more, and one without limits next to nothing.

Athalye, Carlini, Wagner 2018 (arXiv:1802.00420, section 3.1): with useful gradients, robust accuracy does not rise with
more steps or a larger ball, an unbounded attack leaves no example correct, and a black-box attack is not stronger than
PGD.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

from torch import Tensor

from sparring.evaluation.robustness import interval
from sparring.evaluation.significance import LEVEL, sign_test

UNBOUNDED_ACCURACY = 0.01  # accuracy that an unbounded attack may leave

Survivors = tuple[str, Tensor]  # name of an attack, and bool [N]: the examples that are correct after it


class Pair(NamedTuple):
    """A weaker and a stronger attack on the same `samples` examples: how many survive only one of them.

    p_value: of the sign test that the stronger attack does not leave more.
    """

    p_value: float
    weak: str
    strong: str
    only_weak: int
    only_strong: int
    left_by_weak: int
    left_by_strong: int
    samples: int

    def __str__(self) -> str:
        share_weak, share_strong = (100 * left / self.samples for left in (self.left_by_weak, self.left_by_strong))
        return (
            f"{self.strong} leaves {share_strong:.1f} % correct, {self.weak} only {share_weak:.1f} %: "
            f"{self.only_strong} examples survive only the first, {self.only_weak} only the second (sign test, "
            f"p = {self.p_value:.2g})"
        )


def pairs(survivors: Sequence[Survivors]) -> list[Pair]:
    """All pairs of the attacks. survivors: of the same examples, the weakest attack first."""
    return [_pair(weak, strong) for weak, strong in combinations(survivors, 2)]


def masked(survivors: Sequence[Survivors]) -> list[str]:
    """A warning if a stronger attack leaves significantly more examples correct than a weaker one, else [].

    Args:
        survivors: name and survivors (bool [N], the same examples) of each attack, the weakest first.
    """
    compared = pairs(survivors)
    found = [pair for pair in compared if pair.p_value < LEVEL / len(compared)]
    if not found:
        return []
    more = f" {len(found) - 1} more of {len(compared)} pairs show the same." if len(found) > 1 else ""
    return [
        f"{min(found)}. The gradients are probably masked: evaluate by AutoAttack and by transferred examples.{more}"
    ]


def unbounded_warning(alive: Tensor, epsilon: float) -> list[str]:
    """A warning if an attack whose ball holds every image leaves examples correct, else []."""
    low, _ = interval(int(alive.sum()), len(alive))
    if low <= UNBOUNDED_ACCURACY:
        return []
    return [
        f"The ball of ε = {epsilon:.4g} holds every image, and {100 * float(alive.float().mean()):.1f} % of "
        f"{len(alive)} examples are still correct (lower end of the 95 % interval {100 * low:.1f} %): the attack fails "
        f"to find adversarial examples that exist. The gradients are probably masked, or the steps are too few: raise "
        f"evaluation.steps."
    ]


def _pair(weak: Survivors, strong: Survivors) -> Pair:
    (name_weak, after_weak), (name_strong, after_strong) = weak, strong
    only_weak, only_strong = int((after_weak & ~after_strong).sum()), int((after_strong & ~after_weak).sum())
    left_by_weak, left_by_strong = int(after_weak.sum()), int(after_strong.sum())
    return Pair(
        sign_test(only_strong, only_weak),
        name_weak,
        name_strong,
        only_weak,
        only_strong,
        left_by_weak,
        left_by_strong,
        len(after_weak),
    )
