"""An allocator sorts examples into named classes; each class has its number of attack steps and step size.

An allocator of your own is a subclass of `Allocator` with `classes`, `classify` and `budgets`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sparring.attacks import Attack
from sparring.attacks.augmix import Threat

EXAMPLES = 1000  # whose classification's gradients are counted


class Budget(NamedTuple):
    """Attack steps of each example of a class, and the step size in pixel intensities."""

    steps: int
    step_size: float


@dataclass(frozen=True)
class Candidates:
    """The input of an allocator: the examples of a ticket, and the model with the weights at the start of the attack.

    x: float32 [N, C, H, W] in [0, 1]; labels: int64 [N]; clean_logits: [N, K]; attack: with the current ε;
    robust_share: F_R of the trainer, in [0, 1]; generator: random generator of the ticket.
    """

    model: nn.Module
    x: Tensor
    labels: Tensor
    clean_logits: Tensor
    attack: Threat
    robust_share: float
    generator: torch.Generator


class Allocation(NamedTuple):
    """Attack steps and step size of each example of a ticket.

    step_counts: int64 [N]; step_sizes: float32 [N], pixel intensities; counts: number of examples by class; gradients:
    gradient evaluations of the classification.
    """

    step_counts: Tensor
    step_sizes: Tensor
    counts: dict[str, int]
    gradients: int = 0


class Allocator:
    """Base class of allocators. `classes`: names of the classes, under which their counts are reported."""

    classes: tuple[str, ...] = ()

    def classify(self, candidates: Candidates) -> Tensor:
        """int64 [N]: the class of each example, as a position in `classes`."""
        raise NotImplementedError(f"{type(self).__name__} does not classify")

    def budgets(self, attack: Threat) -> Sequence[Budget]:
        """The budget of each class, in the order of `classes`, for the attack with its current ε."""
        raise NotImplementedError(f"{type(self).__name__} has no budgets")

    def gradients(self, examples: int) -> int:
        """Gradient evaluations that the classification of this number of examples needs."""
        return 0

    def updated(self, robust_share: float, robust_accuracy: float) -> float:
        """The new F_R after a batch with this robust accuracy.

        F_R begins at 0. It is sent with every snapshot and given to `classify` as `Candidates.robust_share`.
        """
        return robust_share

    def with_full_steps(self) -> Allocator:
        """The allocator to use while a guard replaces the recipe's attack by a stronger one."""
        return self

    def allocate(self, candidates: Candidates) -> Allocation:
        """Steps and step sizes of each example.

        Raises:
            ValueError: a class number outside `classes`, two classes of one name, or a budget below 0.
        """
        numbers = self.classify(candidates)
        return allocation_of(numbers, self.classes, self.budgets(candidates.attack), self.gradients(len(numbers)))


def allocation_of(
    numbers: Tensor, classes: tuple[str, ...], budgets: Sequence[Budget], gradients: int = 0
) -> Allocation:
    """The budget of each example; numbers: int64 [N], positions in `classes`."""
    where = numbers.cpu()
    if where.dtype != torch.int64 or where.ndim != 1:
        raise ValueError(
            f"an allocator returned {where.dtype} {tuple(where.shape)}: class numbers, int64 [N], are needed"
        )
    if len(budgets) != len(classes) or int(where.min()) < 0 or int(where.max()) >= len(classes):
        raise ValueError(
            f"an allocator with the classes {classes} returned {len(budgets)} budgets and class numbers from "
            f"{int(where.min())} to {int(where.max())}: one budget per class and numbers from 0 to "
            f"{len(classes) - 1} are needed"
        )
    if gradients < 0:
        raise ValueError(f"an allocator has gradients() = {gradients}: at least 0 are needed")
    if len(set(classes)) != len(classes):
        raise ValueError(f"an allocator has the classes {classes}: each needs a name of its own")
    for name, (count, size) in zip(classes, budgets, strict=True):
        if count != int(count) or count < 0 or not 0 <= size < math.inf:
            raise ValueError(
                f"the class {name!r} has the budget steps = {count}, step_size = {size}: an integer of at least 0 and "
                f"a finite number of at least 0 are needed"
            )
    steps = torch.tensor([int(budget.steps) for budget in budgets])
    sizes = torch.tensor([budget.step_size for budget in budgets], dtype=torch.float32)
    counts = torch.bincount(where, minlength=len(classes)).tolist()
    return Allocation(
        steps[where].to(numbers.device),
        sizes[where].to(numbers.device),
        dict(zip(classes, counts, strict=True)),
        gradients,
    )


def mean_steps(counts: Mapping[str, float], allocator: Allocator, attack: Threat) -> float:
    """Mean attack steps per example; counts: number (or share) of examples by class."""
    budgets = dict(zip(allocator.classes, allocator.budgets(attack), strict=True))
    steps = sum(count * budgets[name].steps for name, count in counts.items())
    return steps / (sum(counts.values()) or 1)


def theoretical_speedup(counts: Mapping[str, float], allocator: Allocator, attack: Attack) -> float:
    """Equation 7 of Hua et al.: (N + 1) / (mean steps + 1), where N is the attack's own number of steps.

    It counts a training step as one attack step, as each gradient of the classification, and ignores its forward pass,
    so a real speed-up is lower. Restarts multiply all steps.
    """
    steps = attack.restarts * mean_steps(counts, allocator, attack) + _classifying(allocator)
    return (attack.restarts * attack.steps + 1) / (steps + 1)


def augmix_speedup(counts: Mapping[str, float], allocator: Allocator, attack: Threat) -> float:
    """Speed-up for AugMix, which saves forward passes of views: 3 / (1 + 2·share augmented), Hua et al.'s Table 1."""
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
    """Equation 7 with measured times of one batch: the speed-up without any overhead.

    forward_s: the clean pass, which full attacks also need if their loss compares with it (TRADES); attack_step_s: one
    attack step on all examples; step_s: the training step.
    """
    needs_clean = attack.maximised.needs_clean
    full = attack.steps * attack_step_s + step_s + (forward_s if needs_clean else 0.0)
    steps = mean_steps(counts, allocator, attack) + _classifying(allocator)
    return full / (forward_s + steps * attack_step_s + step_s)


def _classifying(allocator: Allocator) -> float:
    """Gradients of an example's classification, each of which takes as long as an attack step."""
    return allocator.gradients(EXAMPLES) / EXAMPLES
