"""What another package's attack sees of a model, and which example it is about."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from sparring.evaluation.finite import FinitePredictions

X = torch.tensor([0.2, 0.5, 0.8]).view(3, 1, 1, 1).expand(3, 1, 2, 2).contiguous()


class NearOne(nn.Module):
    """NaN logits for images whose mean exceeds .85, and a gradient that is not finite at pixels of exactly .25."""

    def forward(self, x: Tensor) -> Tensor:
        """x: float32 [N, 1, 2, 2]."""
        score = x.flatten(1).mean(1) + 0 * (x - 0.25).abs().sqrt().flatten(1).sum(1)
        return torch.stack([torch.where(score > 0.85, math.nan, score), 1 - score], 1)


@pytest.mark.parametrize(("norm", "radius"), [("linf", 0.1), ("l2", 0.2)])
def test_logits_that_are_not_finite_become_zero_and_belong_to_the_image_around_which_they_are(
    norm: str, radius: float
) -> None:
    predict = FinitePredictions(NearOne(), X, norm, radius)
    logits = predict(X.flip(0) + torch.tensor([0.09, 0.0, 0.0]).view(3, 1, 1, 1))
    assert logits[0].tolist() == [0.0, 0.0] and torch.allclose(logits[1:], torch.tensor([[0.5, 0.5], [0.2, 0.8]]))
    assert predict.non_finite_logits.tolist() == [False, False, True]


def test_what_is_outside_the_ball_belongs_to_no_example() -> None:
    predict = FinitePredictions(NearOne(), X, "linf", 0.05)
    predict(torch.ones(2, 1, 2, 2))
    assert not predict.non_finite_logits.any()


def test_entries_of_a_gradient_that_are_not_finite_become_zero() -> None:
    predict = FinitePredictions(NearOne(), X, "linf", 0.1)
    images = X.clone()
    images[0, 0, 0, 0] = 0.25
    images.requires_grad_()
    (gradient,) = torch.autograd.grad(predict(images)[:, 0].sum(), images)
    assert torch.allclose(gradient, torch.full_like(X, 0.25) - 0.25 * (images.detach() == 0.25))
    assert predict.non_finite_gradient.tolist() == [True, False, False] and not predict.non_finite_logits.any()
