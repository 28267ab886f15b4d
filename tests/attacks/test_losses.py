"""What an attack maximises, and what it compares with."""

from __future__ import annotations

import pytest
import torch

from sparring.attacks import CROSS_ENTROPY, DIVERGENCE, PGD, AttackLoss, cross_entropy, frozen, perturb
from tests.support.batches import images, network_with_batch_norm, seeded, small_network

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]])
LABELS = torch.tensor([0, 2])


def test_the_cross_entropy_is_of_each_example_and_in_float32() -> None:
    expected = -LOGITS.log_softmax(1)[torch.arange(2), LABELS]
    assert torch.allclose(cross_entropy(LOGITS, LABELS), expected)
    assert cross_entropy(LOGITS.bfloat16(), LABELS).dtype == torch.float32


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
