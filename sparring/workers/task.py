"""A task (the examples to attack) and the context of all attacks of a run, resolved once from the recipe."""

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
    """The work of one ticket: attack the examples at `indices` of the training set.

    start: starting point of the attack; None: the attack's own start.
    """

    key: Key
    indices: tuple[int, ...]
    fence: int = 0
    worker: str = ""
    start: WarmStart | None = None

    @property
    def owner(self) -> tuple[int, Key]:
        """Unique name of a ticket, also across resumes."""
        return self.fence, self.key


@dataclass(frozen=True)
class AttackContext:
    """What the attacks of a run have in common.

    model: has the weights of some version; attack: with the full ε; allocator: None if all examples get the attack's
    own steps; helper: the objective's helper network, if the attack's loss needs it.
    """

    model: nn.Module
    dataset: TrainingSet
    attack: Threat
    allocator: Allocator | None
    seed: int
    helper: nn.Module | None = None

    def attack_now(self, controls: Controls) -> Threat:
        """The attack with the current ε, or the PGD by which a guard has replaced it."""
        attack = self.attack.at(controls.epsilon)
        return attack.stronger(controls.pgd_steps) if controls.pgd_steps and isinstance(attack, Attack) else attack

    def allocator_now(self, controls: Controls) -> Allocator | None:
        """The allocator; while a guard's PGD replaces the attack, with all of its steps on boundary examples."""
        if self.allocator is None or not controls.pgd_steps:
            return self.allocator
        return self.allocator.with_full_steps()
