"""The BulletTrain allocator against its formulas in float64."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sparring.allocators import Candidates
from sparring.allocators.bullettrain import (
    BOUNDARY,
    OUTLIER,
    ROBUST,
    BulletTrain,
    classify,
    signed_certainty,
    signed_variance,
)
from sparring.attacks import PGD
from sparring.data import TrainingSet
from tests.support.batches import seeded


def in_float64(logits: Tensor, labels: Tensor, robust_share: float) -> tuple[list[float], list[int]]:
    """Signed variances and classes as Hua et al. writes them."""
    variances = []
    for row, label in zip(logits.double().tolist(), labels.tolist(), strict=True):
        powers = [math.exp(value - max(row)) for value in row]
        probabilities = [power / sum(powers) for power in powers]
        mean = sum(probabilities) / len(row)
        variance = sum((p - mean) ** 2 for p in probabilities) / len(row)
        variances.append(variance if row.index(max(row)) == label else -variance)
    threshold = float(np.percentile(variances, 100 * (1 - robust_share)))
    classes = [
        OUTLIER if value < 0 else BOUNDARY if robust_share == 0 or value < threshold else ROBUST for value in variances
    ]
    return variances, classes


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(2, 50), st.sampled_from([0.0, 0.1, 0.37, 0.5, 0.8, 1.0]))
def test_variance_and_classes_are_those_of_the_formulas(seed: int, n: int, robust_share: float) -> None:
    random = torch.Generator().manual_seed(seed)
    logits, labels = 3 * torch.randn(n, 10, generator=random), torch.randint(10, (n,), generator=random)
    labels[::2] = logits[::2].argmax(1)
    variances, classes = in_float64(logits, labels, robust_share)
    variance = signed_variance(logits, labels)
    assert torch.allclose(variance, torch.tensor(variances, dtype=torch.float64), atol=1e-12)
    # An example within rounding of the threshold may fall on either side of it.
    threshold = float(np.percentile(variances, 100 * (1 - robust_share)))
    clear = [abs(value - threshold) > 1e-12 for value in variances]
    found = classify(variance, robust_share, seeded()).tolist()
    assert [each for each, sure in zip(found, clear, strict=True) if sure] == [
        each for each, sure in zip(classes, clear, strict=True) if sure
    ]


def test_with_no_robust_share_no_example_is_robust() -> None:
    assert classify(torch.tensor([0.1, 0.3, -0.2, 0.0]), 0.0, seeded()).tolist() == [
        BOUNDARY,
        BOUNDARY,
        OUTLIER,
        BOUNDARY,
    ]


def test_with_a_whole_robust_share_every_example_that_is_correct_is_robust() -> None:
    assert classify(torch.tensor([0.1, 0.3, -0.2]), 1.0, seeded()).tolist() == [ROBUST, ROBUST, OUTLIER]


def test_confident_predictions_are_told_apart() -> None:
    """Margins from 12 to 30: in float32 most variances are equal, and all of these would be robust."""
    margins = torch.linspace(12, 30, 101)[torch.randperm(101, generator=seeded())]
    logits = torch.zeros(101, 10)
    logits[:, 0] = margins
    variance = signed_variance(logits, torch.zeros(101, dtype=torch.int64))
    robust = classify(variance, 0.3, seeded()) == ROBUST
    assert torch.equal(robust, margins >= margins.sort().values[70])


def with_digits(logits: Tensor, labels: Tensor) -> list[Decimal]:
    """Signed variances in 400 decimal digits."""
    found = []
    with localcontext() as context:
        context.prec = 400
        for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
            powers = [Decimal(value).exp() for value in row]
            shares = [power / sum(powers) for power in powers]
            variance = sum((share * share for share in shares), Decimal(0)) / len(row) - Decimal(1) / len(row) ** 2
            found.append(variance if row.index(max(row)) == label else -variance)
    return found


@pytest.mark.parametrize("scale", [1.0, 12.0, 60.0])
def test_however_confident_the_order_is_that_of_the_exact_variances(scale: float) -> None:
    """At the largest scale a margin is 90 in the median: nearly all variances are equal in float64."""
    logits = scale * torch.randn(300, 4, generator=seeded(1))
    labels = torch.where(torch.arange(300) % 3 > 0, logits.argmax(1), logits.argmin(1))
    exact = with_digits(logits, labels)
    found = signed_certainty(logits, labels)
    assert torch.equal(found.argsort(), torch.tensor(sorted(range(300), key=lambda each: exact[each])))
    assert ((found < 0) == torch.tensor([value < 0 for value in exact])).all()


def test_a_prediction_that_is_even_is_no_outlier() -> None:
    assert signed_certainty(torch.ones(2, 3), torch.tensor([0, 2])).tolist() == [0.0, 0.0]


def test_of_equal_variances_as_many_become_robust_as_the_share_says_whichever_their_position() -> None:
    variance = torch.full((41,), 0.09, dtype=torch.float64)
    found = torch.stack([classify(variance, 0.25, seeded(seed)) == ROBUST for seed in range(400)])
    assert (found.sum(1) == 11).all(), "ranks from 30 on, of 0 to 40"
    assert (found.float().mean(0) - 11 / 41).abs().max() < 0.1


def test_ties_take_no_random_numbers_from_the_attack(model: nn.Module, digits: TrainingSet) -> None:
    x, labels = digits.batch(torch.arange(40), 0)
    random = seeded(3)
    BulletTrain().allocate(Candidates(model, x, labels, model(x).detach(), PGD(0.1), 0.4, random))
    assert torch.equal(random.get_state(), seeded(3).get_state())


def test_logits_that_are_not_finite_are_those_of_an_outlier() -> None:
    logits = torch.tensor([[math.nan, 1.0], [2.0, math.inf], [3.0, 0.0]])
    variance = signed_variance(logits, torch.tensor([0, 1, 0]))
    assert classify(variance, 1.0, seeded()).tolist() == [OUTLIER, OUTLIER, ROBUST]


def test_boundary_examples_may_be_left_clean() -> None:
    outlier, boundary, robust = BulletTrain(0, 0, 4).budgets(PGD(0.1, steps=10))
    assert (outlier.steps, boundary.steps, robust.steps) == (4, 0, 0)


def test_steps_and_step_sizes_go_by_class() -> None:
    outlier, boundary, robust = BulletTrain(10, 2, 0).budgets(PGD(0.031, steps=10, step_size=0.007))
    assert (outlier.steps, boundary.steps, robust.steps) == (0, 10, 2)
    assert (boundary.step_size, robust.step_size) == pytest.approx((0.007, 1.7 * 0.031 / 2))


def test_the_boundary_gets_the_recipes_steps_where_none_are_set() -> None:
    _, boundary, _ = BulletTrain().budgets(PGD(0.3, steps=8, step_size=0.1))
    assert boundary.steps == 8 and boundary.step_size == pytest.approx(0.1)


def test_fewer_steps_at_the_boundary_go_as_far_as_the_attack_does() -> None:
    _, boundary, _ = BulletTrain(4).budgets(PGD(0.3, steps=8, step_size=0.1))
    assert boundary.steps == 4 and boundary.step_size == pytest.approx(0.2)


def test_classes_are_those_of_the_clean_predictions(model: nn.Module, digits: TrainingSet) -> None:
    x, labels = digits.batch(torch.arange(40), 0)
    logits = model(x).detach()
    attack = PGD(0.1, steps=5)
    found = BulletTrain().allocate(Candidates(model, x, labels, logits, attack, 0.4, seeded()))
    _, classes = in_float64(logits, labels, 0.4)
    assert found.counts == {name: classes.count(each) for each, name in enumerate(BulletTrain.classes)}
    assert found.step_counts.tolist() == [{OUTLIER: 0, BOUNDARY: 5, ROBUST: 2}[each] for each in classes]
    assert min(found.counts.values()) > 0 and found.gradients == 0


def test_the_robust_share_follows_the_robust_accuracy() -> None:
    allocator = BulletTrain(gamma=0.8, momentum=0.9)
    share = 0.0
    for accuracy in (0.5, 0.7):
        share = allocator.updated(share, accuracy)
    assert share == pytest.approx(0.9 * (0.1 * 0.8 * 0.5) + 0.1 * 0.8 * 0.7)
    for _ in range(500):
        share = allocator.updated(share, 0.6)
    assert share == pytest.approx(0.8 * 0.6)


def test_under_a_guards_attack_the_boundary_gets_all_of_its_steps() -> None:
    full = BulletTrain(3, robust_steps=1, outlier_steps=2, gamma=0.5, momentum=0.7).with_full_steps()
    assert type(full) is BulletTrain
    assert vars(full) == vars(BulletTrain(None, 1, 2, 0.5, 0.7))
    assert full.budgets(PGD(0.3, steps=8).stronger(20))[BOUNDARY].steps == 20
