"""Carlini and Wagner's attack: small perturbations under L2 that change the class, example by example.

Carlini & Wagner, "Towards Evaluating the Robustness of Neural Networks" (2017, arXiv:1608.04644), section VI.A:

    minimise ‖x' − x‖² + c · max(z_label − max z_other, 0)     x' = (tanh(w) + 1) / 2, so that it lies in [0, 1]

by Adam in w, with a binary search for the smallest c that succeeds. Constants are those of their code, but for 1,000
steps instead of 10,000, and a rate that falls to 0 within them: at a constant one Adam's steps are as large as a small
margin, and stay so. A c has succeeded where the class changes in the last quarter of its steps: theirs takes the first
steps too, which are so large that they break examples whatever c is, at a distance.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sparring.attacks.gradients import finite
from sparring.attacks.norms import per_example
from sparring.objectives.predictions import are_finite

STEPS, SEARCHES, RATE, FIRST_COST, LARGEST_COST = 1000, 9, 0.01, 1e-3, 1e10
LATE = 0.75  # share of the steps after which the class must change
INSIDE = 0.999999  # of (−1, 1): arctanh is finite there


def carlini_wagner(model: nn.Module, x: Tensor, labels: Tensor, steps: int = STEPS) -> Tensor:
    """The nearest misclassified images that were found, float32 [N, C, H, W]; x itself where none was.

    Args:
        model: in eval mode, its parameters without gradients. x: float32 [N, C, H, W] in [0, 1]; labels: int64 [N].
    """
    best, sizes = x.clone(), torch.full((len(x),), math.inf, device=x.device)
    low, high = torch.zeros_like(sizes), torch.full_like(sizes, LARGEST_COST)
    cost = torch.full_like(sizes, FIRST_COST)
    for _ in range(SEARCHES):
        found, lengths, succeeded = _descend(model, x, labels, cost, steps)
        nearer = lengths < sizes
        best, sizes = torch.where(per_example(nearer), found, best), torch.minimum(lengths, sizes)
        low, high, cost = _narrowed(low, high, cost, succeeded)
    return best


def _narrowed(low: Tensor, high: Tensor, cost: Tensor, succeeded: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The bounds of c after a search, and the next c: ten times as much until one has succeeded."""
    high = torch.where(succeeded, torch.minimum(high, cost), high)
    low = torch.where(succeeded, low, torch.maximum(low, cost))
    return low, high, torch.where(high < LARGEST_COST, (low + high) / 2, cost * 10)


def _descend(model: nn.Module, x: Tensor, labels: Tensor, cost: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """The nearest misclassified images on the way, their squared distances (infinite where there was none), and which
    of these costs have succeeded."""
    inner = torch.atanh((2 * x - 1) * INSIDE).requires_grad_()
    optimizer = torch.optim.Adam([inner], RATE)
    late = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    best, sizes = x.clone(), torch.full((len(x),), math.inf, device=x.device)
    for step in range(steps):
        images = (torch.tanh(inner) + 1) / 2
        logits = model(images.clone()).float()
        lengths = (images - x).flatten(1).square().sum(1)
        loss = (lengths + cost * _lead_of_label(logits, labels).clamp_min(0).nan_to_num(0.0)).sum()
        with torch.no_grad():
            wrong = (logits.argmax(1) != labels) | ~are_finite(logits)
            late |= wrong & (step >= LATE * steps)
            nearer = wrong & (lengths < sizes)
            best, sizes = torch.where(per_example(nearer), images, best), torch.where(nearer, lengths, sizes)
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - step / steps)
        (gradient,) = torch.autograd.grad(loss, inner)
        inner.grad = finite(gradient)
        optimizer.step()
    return best.detach(), sizes, late


def _lead_of_label(logits: Tensor, labels: Tensor) -> Tensor:
    """[N]: logit of the label minus the highest other one."""
    own = labels[:, None]
    others: Tensor = logits.scatter(1, own, -math.inf).amax(1)
    return logits.gather(1, own)[:, 0] - others
