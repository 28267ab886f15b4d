"""What logits say."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sparring.objectives.predictions import are_finite, are_probabilities, correct


def test_a_prediction_is_right_where_the_highest_logit_is_the_labels() -> None:
    assert correct(torch.tensor([[0.1, 3.0], [5.0, 3.0]]), torch.tensor([1, 1])).tolist() == [True, False]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_logits_that_are_not_finite_are_never_right(value: float, at: int) -> None:
    logits = torch.tensor([[0.0, 1.0, 0.5]])
    logits[0, at] = value
    assert not are_finite(logits).any()
    assert not any(correct(logits, torch.tensor([label])).any() for label in range(3))


@pytest.mark.parametrize("classes", [2, 10, 1000])
@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_probabilities_are_told_from_logits(classes: int, scale: float) -> None:
    logits = scale * torch.randn(50, classes, generator=torch.Generator().manual_seed(0))
    assert are_probabilities(logits.softmax(1)).all()
    for others in (logits, logits.log_softmax(1), logits.sigmoid() if classes > 2 else logits):
        assert not are_probabilities(others).all()


@pytest.mark.parametrize("logits", [torch.ones(3, 1), torch.tensor([[2.0, -1.0]]), torch.tensor([[math.nan, 1.0]])])
def test_numbers_that_sum_to_one_by_chance_are_no_probabilities(logits: Tensor) -> None:
    assert not are_probabilities(logits).any()
