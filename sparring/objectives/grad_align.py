"""GradAlign (Andriushchenko & Flammarion 2020): keep the gradient of the images alike inside the ball, so that one step
of an attack is enough.

    loss = CE(f(x_adv), y) + λ · mean over examples of 1 − cos(∇ CE(f(x), y), ∇ CE(f(x + η), y))

∇: by the images. η is uniform in the ball of the attack, and x + η is not clamped to [0, 1]. As in the authors' code,
with the model in train mode for all passes, only the gradient at x + η is differentiated again by the weights; that at
x is a constant. Examples with a gradient of 0 at one of the two points are left out of the mean.

The passes: x_adv, x, x + η. The authors take the gradient at x from the step of their FGSM attack. Here the attack is
made apart, in eval mode and maybe by workers, so x has a pass of its own. Theirs are L∞ balls; under L2 η is uniform in
the L2 ball.

λ of the authors' runs with PreActResNet-18: 0.2 at ε = 8/255 and 2.0 at ε = 16/255 on CIFAR-10, between and below them
log-linear: 0.02·10^(255·ε / 8). On SVHN 2.5 at 8/255, 3.162 at 12/255: 1.563·1.0605^(255·ε).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparring.objectives.losses import pgd_at
from sparring.objectives.objective import Batch, Objective


class GradAlign(Objective):
    """Cross-entropy on attacked examples, and λ = `align_lambda` times the mean of 1 − cosine of two gradients."""

    takes_noise = True

    def __init__(self, align_lambda: float = 0.2) -> None:
        self.align_lambda = align_lambda

    def loss(self, model: nn.Module, batch: Batch, helper: nn.Module | None = None) -> tuple[Tensor, Tensor]:
        if batch.noise is None:
            raise ValueError("a batch without noise; GradAlign compares the gradients at x and at x + noise")
        logits = model(batch.x_adv)
        at_image = image_gradient(model, batch.x, batch.labels).detach()
        beside = image_gradient(model, batch.x + batch.noise, batch.labels, differentiable=True)
        loss = pgd_at(logits, batch.labels, weights=batch.weights)
        return loss + self.align_lambda * misalignment(at_image, beside, batch.weights), logits


def image_gradient(model: nn.Module, x: Tensor, labels: Tensor, *, differentiable: bool = False) -> Tensor:
    """The gradient by x [N, C, H, W] of the summed cross-entropy; `differentiable`: again, by the weights."""
    x = x.detach().requires_grad_()
    logits = model(x)
    precise = logits if logits.dtype == torch.float64 else logits.float()
    loss = F.cross_entropy(precise, labels, reduction="sum")
    return torch.autograd.grad(loss, x, create_graph=differentiable)[0]


def misalignment(one: Tensor, other: Tensor, weights: Tensor | None = None) -> Tensor:
    """A scalar: the mean of 1 − cos over the examples that have a gradient at both points; 0 where there are none.

    one, other: gradients [N, C, H, W]. weights: float [N] with mean 1, of the examples.
    """
    one, other = one.flatten(1), other.flatten(1)
    known = one.detach().any(1) & other.detach().any(1)
    away = torch.where(known, 1 - (unit(one) * unit(other)).sum(1), 0.0)
    if weights is not None:
        away = away * weights
    mean: Tensor = away.sum() / known.sum().clamp_min(1)
    return mean


def unit(rows: Tensor) -> Tensor:
    """Rows [N, D] of length 1; those of zeros stay so. First each is divided by its largest entry: the squares of the
    gradient of a confident example would be 0 in float32."""
    tiny = torch.finfo(rows.dtype).tiny
    scaled = rows / rows.detach().abs().amax(1, keepdim=True).clamp_min(tiny)
    made: Tensor = scaled / torch.linalg.vector_norm(scaled, dim=1, keepdim=True).clamp_min(tiny)
    return made
