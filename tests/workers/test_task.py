"""What tasks are attacked with now: at the present ε, or by the attack that a guard has put in its place."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from sparring.allocators.bullettrain import BulletTrain
from sparring.attacks import NFGSM, PGD
from sparring.attacks.augmix import AugMix
from sparring.config import AugmixSettings
from sparring.data import TrainingSet
from sparring.queue.messages import Controls, Key
from sparring.workers.task import AttackContext, Task


def context(digits: TrainingSet) -> AttackContext:
    return AttackContext(nn.Identity(), digits, PGD(0.3, steps=5, step_size=0.1), BulletTrain(3), seed=0)


def test_the_attack_has_the_epsilon_of_now(digits: TrainingSet) -> None:
    assert context(digits).attack_now(Controls(0.15)) == PGD(0.15, steps=5, step_size=0.05)
    views = AugMix(AugmixSettings())
    assert replace(context(digits), attack=views).attack_now(Controls(0.0, pgd_steps=20)) is views


def test_a_guards_attack_takes_the_place_of_the_recipes(digits: TrainingSet) -> None:
    guarded = Controls(0.15, pgd_steps=20)
    assert context(digits).attack_now(guarded) == PGD(0.15, steps=20)
    assert replace(context(digits), attack=NFGSM(0.3)).attack_now(guarded) == PGD(0.15, steps=20)


def test_its_steps_are_the_boundarys_while_the_guard_is_on(digits: TrainingSet) -> None:
    usual, guarded = context(digits), Controls(0.15, pgd_steps=20)
    assert usual.allocator_now(Controls(0.15)) is usual.allocator
    allocator = usual.allocator_now(guarded)
    assert allocator is not None
    assert [budget.steps for budget in allocator.budgets(usual.attack_now(guarded))] == [0, 20, 2]
    assert replace(usual, allocator=None).allocator_now(guarded) is None


def test_a_ticket_of_an_earlier_start_is_another() -> None:
    assert Task(Key(1, 2, 0), (5,), fence=3).owner == (3, Key(1, 2, 0))
    assert Task(Key(1, 2, 0), (5,), fence=4).owner != Task(Key(1, 2, 0), (5,), fence=3).owner
