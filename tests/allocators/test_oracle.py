"""The oracle: classes by the outcome of ten PGD steps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparring.allocators import Allocator, Candidates
from sparring.allocators.bullettrain import BOUNDARY, OUTLIER, ROBUST, BulletTrain
from sparring.allocators.oracle import Oracle, classify_by_attack
from sparring.attacks import DIVERGENCE, PGD, perturb, perturbed
from sparring.attacks.augmix import AugMix, Threat
from sparring.config import AugmixSettings
from sparring.data import TrainingSet
from sparring.errors import SparringError
from tests.support.batches import seeded

INDICES = torch.arange(40)


def candidates(model: nn.Module, digits: TrainingSet, attack: Threat) -> Candidates:
    x, labels = digits.batch(INDICES, 0)
    with torch.no_grad():
        return Candidates(model, x, labels, model(x), attack, 0.4, seeded())


def test_it_goes_by_the_definitions() -> None:
    correct, attacked = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False])
    assert classify_by_attack(correct, attacked).tolist() == [ROBUST, BOUNDARY, OUTLIER, OUTLIER]


def test_ten_steps_in_the_attacks_ball_decide_whatever_the_attack_maximises(
    model: nn.Module, digits: TrainingSet
) -> None:
    found = []
    for attack in (PGD(0.1, steps=5), PGD(0.1, steps=5, restarts=3, loss=DIVERGENCE, step_size=0.01)):
        given = candidates(model, digits, attack)
        found.append(Oracle().classify(given))
    delta = perturb(model, given.x, given.labels, PGD(0.1, steps=10), seeded())
    broken = model(perturbed(given.x, delta)).argmax(1) != given.labels
    correct = given.clean_logits.argmax(1) == given.labels
    assert torch.equal(found[0], found[1]) and torch.equal(found[0] == BOUNDARY, correct & broken)
    assert 0 < int((found[0] == BOUNDARY).sum()) < int(correct.sum()) < len(INDICES)


def test_classifying_costs_ten_gradient_evaluations_an_example(model: nn.Module, digits: TrainingSet) -> None:
    found = Oracle(robust_steps=0).allocate(candidates(model, digits, PGD(0.1, steps=5)))
    assert found.gradients == 10 * len(INDICES)
    assert int(found.step_counts.sum()) == 5 * found.counts["boundary"]


def test_views_are_refused(model: nn.Module, digits: TrainingSet) -> None:
    with pytest.raises(SparringError, match=r"allocator\.name = 'oracle'"):
        Oracle().classify(candidates(model, digits, AugMix(AugmixSettings())))


def test_under_a_guards_attack_the_boundary_gets_all_of_its_steps() -> None:
    full: Allocator = Oracle(3, robust_steps=1, outlier_steps=2, gamma=0.5, momentum=0.7).with_full_steps()
    assert type(full) is Oracle
    assert vars(full) == vars(BulletTrain(None, 1, 2, 0.5, 0.7))
