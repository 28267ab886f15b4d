"""PGD in the L1 ball, with the projection of l1-APGD (Croce & Hein 2021, "Mind the box"): a ball of your own.

    sparring train --engine sync --attack.name examples/l1.py:L1 --attack.epsilon 3 \
        --train.epochs 2

The projection is onto the ball and the image box together: one after the other would waste part of ε. A step spreads
its length α evenly over the largest `share` of the gradient's entries. From the authors' code differ: the threshold is
found by bisection instead of sorting; the share and the step size are fixed, where APGD adapts both to the progress.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from sparring.attacks import Attack, State

HALVINGS = 40


@dataclass(frozen=True, kw_only=True)
class L1(Attack):
    """Projected gradient ascent under L1, from projected Gaussian noise; see `Attack` for the other arguments."""

    share: float = 0.2
    norm: str = field(default="l1", init=False)

    norms: ClassVar[tuple[str, ...]] = ("l1",)

    def initial(self, x: Tensor, generator: torch.Generator) -> Tensor:
        if self.start != "uniform":
            return super().initial(x, generator)
        noise = torch.randn(x.shape, generator=generator, device=generator.device).to(x.device)
        return self.project(noise, x, self.radius)

    def step(self, delta: Tensor, gradient: Tensor, step_size: Tensor, state: State) -> Tensor:
        flat = gradient.flatten(1)
        kept = flat.abs().topk(max(1, round(self.share * flat.shape[1]))).indices
        signs = torch.zeros_like(flat).scatter(1, kept, flat.gather(1, kept).sign())
        return delta + (step_size[:, None] * signs / kept.shape[1]).view_as(delta)

    def project(self, delta: Tensor, x: Tensor, radius: float | Tensor) -> Tensor:
        """The nearest perturbation with ‖δ‖₁ ≤ radius and x + δ in [0, 1]: |δ| minus a threshold, cut to the box."""
        sizes, room = delta.abs().flatten(1), torch.where(delta > 0, 1 - x, x).flatten(1)
        low, high = sizes.new_zeros(len(x)), sizes.amax(1)

        def shrunk(threshold: Tensor) -> Tensor:
            return (sizes - threshold[:, None]).clamp_min(0).minimum(room)

        high = torch.where(shrunk(low).sum(1) > radius, high, low)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            outside = shrunk(middle).sum(1) > radius
            low, high = torch.where(outside, middle, low), torch.where(outside, high, middle)
        inside = delta.sign() * shrunk(high).view_as(delta)
        return (x + inside).clamp(0, 1) - x
