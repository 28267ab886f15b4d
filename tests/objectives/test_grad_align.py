"""GradAlign against a float64 transcription whose gradients by the images are written by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparring.objectives import Batch
from sparring.objectives.grad_align import GradAlign, misalignment
from tests.support.passes import Counting

LAMBDA, EXAMPLES, PIXELS, HIDDEN, CLASSES = 0.7, 6, 9, 5, 4


class Mlp(nn.Module):
    """softmax-linear ∘ tanh ∘ linear; smooth, so that second derivatives count."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(PIXELS, HIDDEN), nn.Linear(HIDDEN, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.second(self.first(x.flatten(1)).tanh())
        return logits


def network(seed: int = 0) -> Mlp:
    torch.manual_seed(seed)
    return Mlp().double().train()


def batch(seed: int, weights: Tensor | None = None) -> Batch:
    random = torch.Generator().manual_seed(seed)
    x, adv, noise = torch.rand(3, EXAMPLES, 1, 3, 3, generator=random, dtype=torch.float64)
    labels = torch.randint(0, CLASSES, (EXAMPLES,), generator=random)
    return Batch(x, adv, labels, weights, noise=0.6 * noise - 0.3)


def by_hand(weights: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
    """[N, D]: ∇ₓ of the cross-entropy: W₁ᵀ ((1 − h²) ⊙ W₂ᵀ (softmax − onehot)), without autograd."""
    w1, b1, w2, b2 = weights
    hidden = torch.tanh(x.flatten(1) @ w1.T + b1)
    error = torch.softmax(hidden @ w2.T + b2, 1) - F.one_hot(y, CLASSES)
    return ((error @ w2) * (1 - hidden**2)) @ w1


def transcribed(weights: list[Tensor], of: Batch) -> Tensor:
    """CE(x_adv) + λ · mean (1 − cos), the gradient at x held fixed."""
    assert of.noise is not None
    w1, b1, w2, b2 = weights
    logits = torch.tanh(of.x_adv.flatten(1) @ w1.T + b1) @ w2.T + b2
    own = torch.logsumexp(logits, 1) - logits[torch.arange(EXAMPLES), of.labels]
    at_x, beside = by_hand(weights, of.x, of.labels).detach(), by_hand(weights, of.x + of.noise, of.labels)
    cos = (at_x * beside).sum(1) / (at_x.pow(2).sum(1).sqrt() * beside.pow(2).sum(1).sqrt())
    importance = torch.ones(EXAMPLES) if of.weights is None else of.weights
    return (importance * own).sum() / EXAMPLES + LAMBDA * (importance * (1 - cos)).sum() / EXAMPLES


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("weighted", [False, True])
def test_loss_and_gradient_are_those_of_the_formula(seed: int, weighted: bool) -> None:
    model = network(seed)
    importance = torch.linspace(0.5, 1.5, EXAMPLES, dtype=torch.float64) if weighted else None
    of = batch(seed, importance)
    loss, logits = GradAlign(LAMBDA).loss(model, of)
    parameters = list(model.parameters())
    found = torch.autograd.grad(loss, parameters)
    copies = [parameter.detach().clone().requires_grad_() for parameter in parameters]
    expected = transcribed(copies, of)
    assert torch.equal(logits, model(of.x_adv))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12, abs=1e-12)
    for ours, theirs in zip(found, torch.autograd.grad(expected, copies), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-12)


def test_lambda_0_is_the_cross_entropy_of_the_attacked_images() -> None:
    model, of = network(), batch(1)
    assert torch.equal(GradAlign(0.0).loss(model, of)[0], F.cross_entropy(model(of.x_adv), of.labels))


def test_batch_norm_sees_the_attacked_images_the_clean_ones_and_those_with_noise() -> None:
    model = Counting(batch_norm=True).double().train()
    x, adv, noise = torch.rand(3, 6, 3, dtype=torch.float64)
    GradAlign().loss(model, Batch(x, adv, torch.zeros(6, dtype=torch.int64), noise=noise))
    assert [torch.equal(seen, one) for seen, one in zip(model.seen, (adv, x, x + noise), strict=True)] == [True] * 3


def test_examples_without_a_gradient_are_left_out_and_give_no_nan() -> None:
    one = torch.tensor([[[[1.0, 0.0]]], [[[0.0, 0.0]]], [[[3.0, 0.0]]]])
    other = torch.tensor([[[[0.0, 2.0]]], [[[1.0, 0.0]]], [[[0.0, 0.0]]]]).requires_grad_()
    value = misalignment(one, other)
    (gradient,) = torch.autograd.grad(value, other)
    assert value.item() == 1.0 and gradient.isfinite().all()
    assert misalignment(torch.zeros(2, 1, 1, 2), torch.ones(2, 1, 1, 2)).item() == 0.0


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e30])
def test_the_angle_does_not_depend_on_the_length_of_a_gradient(scale: float) -> None:
    one, other = torch.rand(2, 4, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    assert misalignment(one * scale, other * scale).item() == pytest.approx(misalignment(one, other).item(), rel=1e-5)


def test_a_batch_without_noise_is_refused() -> None:
    of = batch(0)
    with pytest.raises(ValueError, match="without noise"):
        GradAlign().loss(network(), Batch(of.x, of.x_adv, of.labels))
