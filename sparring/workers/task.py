"""What is to be attacked, and what with: resolved once, so that nobody computes it back from the recipe."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from sparring.allocators import Allocator
from sparring.attacks import Attack, WarmStart
from sparring.attacks.augmix import Threat
from sparring.data import TrainingSet
from sparring.queue.messages import Controls, Key


@dataclass(frozen=True)
class Task:
    """One ticket's work: the attack on the examples at `indices` of the training set.

    start: where it begins, where that is not left to the attack.
    """

    key: Key
    indices: tuple[int, ...]
    fence: int = 0
    worker: str = ""
    start: WarmStart | None = None

    @property
    def owner(self) -> tuple[int, Key]:
        """What tells tickets apart, across resumes too."""
        return self.fence, self.key


@dataclass(frozen=True)
class AttackContext:
    """What every task of a run is attacked with.

    model: holds the weights of some version; attack: at its full ε; allocator: None where all examples get the attack's
    own steps; helper: the objective's network, where the attack's loss compares with it.
    """

    model: nn.Module
    dataset: TrainingSet
    attack: Threat
    allocator: Allocator | None
    seed: int
    helper: nn.Module | None = None

    def attack_now(self, controls: Controls) -> Threat:
        """The attack at the present ε; the PGD of a guard where one has taken its place."""
        now = self.attack.at(controls.epsilon)
        return now.stronger(controls.pgd_steps) if controls.pgd_steps and isinstance(now, Attack) else now

    def allocator_now(self, controls: Controls) -> Allocator | None:
        """The allocator; with all steps at the boundary where a guard's PGD has taken the attack's place."""
        if self.allocator is None or not controls.pgd_steps:
            return self.allocator
        return self.allocator.with_full_steps()
