"""An allocator: examples are put into named classes, and each class has its number of attack steps and step size.

One of your own is a subclass of `Allocator` with `classes`, `classify` and `budgets`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sparring.attacks import Attack
from sparring.attacks.augmix import Threat


class Budget(NamedTuple):
    """What each example of a class gets: attack steps, and their size in pixel intensities."""

    steps: int
    step_size: float


@dataclass(frozen=True)
class Candidates:
    """What an allocator may look at: the examples of a ticket under the weights that their attack begins with.

    x: float32 [N, C, H, W] in [0, 1]; labels: int64 [N]; clean_logits: [N, K]; attack: at the present ε; robust_share:
    F_R of the trainer, in [0, 1]; generator: of the ticket.
    """

    model: nn.Module
    x: Tensor
    labels: Tensor
    clean_logits: Tensor
    attack: Threat
    robust_share: float
    generator: torch.Generator


class Allocation(NamedTuple):
    """What each example of a ticket gets.

    step_counts: int64 [N]; step_sizes: float32 [N], pixel intensities; counts: examples of each class; gradients:
    gradient evaluations that classifying took.
    """

    step_counts: Tensor
    step_sizes: Tensor
    counts: dict[str, int]
    gradients: int = 0


class Allocator:
    """Who gets how many attack steps. `classes` are the names that its counts are reported by."""

    classes: tuple[str, ...] = ()

    def classify(self, candidates: Candidates) -> Tensor:
        """int64 [N]: the number of each example's class, its position in `classes`."""
        raise NotImplementedError(f"{type(self).__name__} does not classify")

    def budgets(self, attack: Threat) -> Sequence[Budget]:
        """What each class gets, in the order of `classes`, under the attack at its present ε."""
        raise NotImplementedError(f"{type(self).__name__} has no budgets")

    def gradients(self, examples: int) -> int:
        """Gradient evaluations that classifying so many examples takes."""
        return 0

    def updated(self, robust_share: float, robust_accuracy: float) -> float:
        """F_R after a batch of which the share `robust_accuracy` was classified correctly under attack.

        It begins at 0, rides along with every snapshot, and comes back as `Candidates.robust_share`.
        """
        return robust_share

    def with_full_steps(self) -> Allocator:
        """The allocator where a guard has put a stronger attack in the place of the recipe's."""
        return self

    def allocate(self, candidates: Candidates) -> Allocation:
        """Steps and step sizes of each example.

        Raises:
            ValueError: a class number outside `classes`.
        """
        numbers = self.classify(candidates)
        return allocation_of(numbers, self.classes, self.budgets(candidates.attack), self.gradients(len(numbers)))


def allocation_of(
    numbers: Tensor, classes: tuple[str, ...], budgets: Sequence[Budget], gradients: int = 0
) -> Allocation:
    """The budgets by example; numbers: int64 [N], positions in `classes`."""
    where = numbers.cpu()
    if len(budgets) != len(classes) or int(where.min()) < 0 or int(where.max()) >= len(classes):
        raise ValueError(
            f"an allocator with the classes {classes} gave {len(budgets)} budgets and class numbers from "
            f"{int(where.min())} to {int(where.max())}: one budget a class and numbers from 0 to "
            f"{len(classes) - 1} are needed"
        )
    steps = torch.tensor([budget.steps for budget in budgets])
    sizes = torch.tensor([budget.step_size for budget in budgets], dtype=torch.float32)
    counts = torch.bincount(where, minlength=len(classes)).tolist()
    return Allocation(
        steps[where].to(numbers.device),
        sizes[where].to(numbers.device),
        dict(zip(classes, counts, strict=True)),
        gradients,
    )


def mean_steps(counts: Mapping[str, float], allocator: Allocator, attack: Threat) -> float:
    """Attack steps by example, of so many examples (or shares of them) in each class."""
    budgets = dict(zip(allocator.classes, allocator.budgets(attack), strict=True))
    spent = sum(count * budgets[name].steps for name, count in counts.items())
    return spent / (sum(counts.values()) or 1)


def theoretical_speedup(counts: Mapping[str, float], allocator: Allocator, attack: Attack) -> float:
    """Equation 7 of Hua et al.: (N + 1) / (mean steps + 1), N being the attack's own steps.

    It counts a training step as one attack step and forgets the classifying pass, so that perfect code stays below it.
    Several restarts multiply all steps.
    """
    steps = mean_steps(counts, allocator, attack)
    return (attack.restarts * attack.steps + 1) / (attack.restarts * steps + 1)


def augmix_speedup(counts: Mapping[str, float], allocator: Allocator, attack: Threat) -> float:
    """AugMix has no attack steps; it is spared passes of views: 3 / (1 + 2·share augmented), Hua et al.'s Table 1."""
    return 3 / (1 + 2 * mean_steps(counts, allocator, attack))


def speedup_ceiling(
    counts: Mapping[str, float],
    allocator: Allocator,
    attack: Attack,
    *,
    forward_s: float,
    attack_step_s: float,
    step_s: float,
) -> float:
    """What equation 7 becomes with measured times of one batch: the speed-up that code without overhead would reach.

    forward_s: the clean pass, which full attacks need too where their loss compares with it (TRADES); attack_step_s:
    one attack step on all; step_s: the training step.
    """
    needs_clean = attack.maximised.targets == "clean"
    full = attack.steps * attack_step_s + step_s + (forward_s if needs_clean else 0.0)
    return full / (forward_s + mean_steps(counts, allocator, attack) * attack_step_s + step_s)
