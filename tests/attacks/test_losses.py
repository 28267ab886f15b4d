"""What an attack maximises, and what it compares with."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sparring.attacks import CROSS_ENTROPY, DIVERGENCE, PGD, AttackLoss, cross_entropy, frozen, perturb
from tests.support.batches import images, network_with_batch_norm, seeded, small_network

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]])
LABELS = torch.tensor([0, 2])


def test_the_cross_entropy_is_of_each_example_and_in_float32() -> None:
    expected = -LOGITS.log_softmax(1)[torch.arange(2), LABELS]
    assert torch.allclose(cross_entropy(LOGITS, LABELS), expected)
    assert cross_entropy(LOGITS.bfloat16(), LABELS).dtype == torch.float32


def gradient_by_logits(loss: AttackLoss, logits: Tensor, labels: Tensor) -> Tensor:
    leaf = logits.clone().requires_grad_()
    return torch.autograd.grad(loss(leaf, labels).sum(), leaf)[0]


@pytest.mark.parametrize("scale", [15.0, 30.0, 1000.0])
def test_a_confident_prediction_does_not_hide_the_direction_of_its_gradient(scale: float) -> None:
    logits, labels = scale * torch.randn(64, 10, generator=seeded()), torch.arange(64) % 10
    logits[torch.arange(64), labels] += 3 * scale
    found = gradient_by_logits(CROSS_ENTROPY, logits, labels).double()
    others = logits.double().scatter(1, labels[:, None], -math.inf).softmax(1)
    direction = others.scatter(1, labels[:, None], -1.0)  # of CE in exact arithmetic, up to a positive factor
    assert torch.nn.functional.cosine_similarity(found, direction).min() > 1 - 1e-3
    assert (found.abs().amax(1) > 1e-10).all()


def test_predictions_of_ordinary_confidence_have_the_gradient_of_the_cross_entropy_to_the_last_bit() -> None:
    logits, labels = 3 * torch.randn(256, 10, generator=seeded()), torch.arange(256) % 10
    plain = AttackLoss(cross_entropy)
    assert torch.equal(CROSS_ENTROPY(logits, labels), plain(logits, labels))
    assert torch.equal(gradient_by_logits(CROSS_ENTROPY, logits, labels), gradient_by_logits(plain, logits, labels))


def test_what_an_attack_maximises_rises_with_the_cross_entropy_where_that_is_rounded_to_zero() -> None:
    margins = torch.linspace(1.0, 300.0, 500)
    values = CROSS_ENTROPY(torch.stack([margins, torch.zeros_like(margins)], 1), torch.zeros(500, dtype=torch.int64))
    assert (values.diff() < 0).all() and not cross_entropy(torch.tensor([[300.0, 0.0]]), torch.tensor([0])).any()


def test_a_single_class_has_no_loss() -> None:
    assert not CROSS_ENTROPY(torch.tensor([[3.0]]), torch.tensor([0])).any()


def test_a_loss_says_what_it_compares_with() -> None:
    clean, helped = 2 * LOGITS, 3 * LOGITS
    assert CROSS_ENTROPY.targets_of(LABELS, clean, helped) is LABELS
    assert torch.allclose(DIVERGENCE.targets_of(LABELS, clean, helped), clean.softmax(1))
    beside = AttackLoss(lambda logits, targets: (logits - targets).square().sum(1), "helper")
    assert torch.allclose(beside.targets_of(LABELS, clean, helped), helped.softmax(1))


@pytest.mark.parametrize("targets", ["clean", "helper"])
def test_predictions_that_are_needed_and_missing_are_an_error(targets: str) -> None:
    loss = AttackLoss(cross_entropy, targets)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"needs the {targets} predictions"):
        loss.targets_of(LABELS, None, None)


def test_the_divergence_of_equal_predictions_is_zero() -> None:
    assert torch.allclose(DIVERGENCE(LOGITS, LOGITS.softmax(1)), torch.zeros(2), atol=1e-6)
    assert (DIVERGENCE(LOGITS.flip(1), LOGITS.softmax(1)) > 0.05).all()


def test_an_attack_maximises_a_loss_of_ones_own() -> None:
    model, (x, y) = small_network(), images()
    towards = AttackLoss(lambda logits, labels: logits.log_softmax(1)[:, 7])
    delta = perturb(model, x, y, PGD(0.3, steps=10, loss=towards), seeded())
    assert (model(x + delta).softmax(1)[:, 7] > model(x).softmax(1)[:, 7]).all()


def test_an_attack_may_lead_away_from_what_a_helper_says() -> None:
    model, helper, (x, y) = small_network(), network_with_batch_norm(), images()
    beside = AttackLoss(lambda logits, said: -(said * logits.log_softmax(1)).sum(1), "helper")
    with frozen(helper):
        said = helper(x).softmax(1)
        delta = perturb(model, x, y, PGD(0.3, steps=10, loss=beside), seeded(), helper)
    assert (beside(model(x + delta), said) > beside(model(x), said)).all()
