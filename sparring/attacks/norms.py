"""Projection, random start and ascent step under L∞ and L2.

x: float32 [N, C, H, W] in [0, 1]; delta, gradient: the same shape. All arithmetic is in float32, in any precision of
the model (float64 for float64 images). `epsilon` and `step_size` are pixel intensities: a number, or where a tensor is
allowed float32 [N]. A norm is "linf" or "l2"; another raises a ValueError.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

Norm = Literal["linf", "l2"]
NORMS: tuple[str, ...] = get_args(Norm)


def project(delta: Tensor, x: Tensor, norm: str, epsilon: float | Tensor) -> Tensor:
    """Project δ to the ball, then clamp x + δ to [0, 1] (which keeps δ inside the ball)."""
    return (x + project_ball(delta, norm, epsilon)).clamp(0, 1) - x


def project_ball(delta: Tensor, norm: str, epsilon: float | Tensor) -> Tensor:
    """Project δ to the ball of radius `epsilon`, without clamping the image."""
    if not isinstance(epsilon, Tensor) and not epsilon >= 0:
        raise ValueError(f"epsilon = {epsilon!r}: the radius of a ball must be at least 0.")
    delta = precise(delta)
    radius: Any = per_example(epsilon) if isinstance(epsilon, Tensor) else epsilon
    if norm == "linf":
        inside: Tensor = delta.clamp(-radius, radius)
    else:
        _require_l2(norm)
        inside = delta * (radius / per_example(l2_norms(delta)).clamp_min(1e-12)).clamp_max(1.0)
    return inside


def perturbed(x: Tensor, delta: Tensor) -> Tensor:
    """The attacked images x + δ, clamped to [0, 1]."""
    return (x + delta).clamp_(0, 1)


def random_start(x: Tensor, norm: str, epsilon: float, generator: torch.Generator) -> Tensor:
    """A perturbation uniform in the ball, drawn on the generator's device; x + δ is not clamped."""
    device = generator.device
    if norm == "linf":
        noise = torch.rand(x.shape, generator=generator, device=device) * 2 - 1
        return (epsilon * noise).to(x.device)
    _require_l2(norm)
    direction = torch.randn(x.shape, generator=generator, device=device)
    radius = torch.rand(len(x), generator=generator, device=device) ** (1 / x[0].numel())
    return (direction * per_example(epsilon * radius / l2_norms(direction).clamp_min(1e-12))).to(x.device)


def ascend(delta: Tensor, gradient: Tensor, norm: str, step_size: float | Tensor) -> Tensor:
    """One step of steepest ascent: along the sign of the gradient (L∞), or along the normalised gradient (L2)."""
    size = per_example(step_size) if isinstance(step_size, Tensor) else step_size
    if norm == "linf":
        return delta + size * gradient.sign()
    _require_l2(norm)
    gradient = precise(gradient)
    scaled = gradient * per_example(_scale(gradient))
    return delta + size * scaled / per_example(l2_norms(scaled)).clamp_min(1e-12)


def _scale(gradient: Tensor) -> Tensor:
    """[N]: the power of two that brings the largest entry of each gradient to [0.5, 1), so that no square underflows.

    A power of two changes no direction in the last bits. Of subnormal gradients the largest entry comes to at least
    2^-24.
    """
    largest = largest_entries(gradient)
    return torch.frexp(largest).mantissa / largest.clamp_min(torch.finfo(largest.dtype).tiny)


def largest_entries(tensor: Tensor) -> Tensor:
    """[N]: the largest absolute value of each example; NaN where it holds one."""
    largest: Tensor = tensor.flatten(1).abs().amax(1)
    return largest


def l2_norms(tensor: Tensor) -> Tensor:
    """[N]: the L2 norm of each example."""
    norms: Tensor = torch.linalg.vector_norm(precise(tensor).flatten(1), dim=1)
    return norms


def sizes(delta: Tensor, norm: str) -> Tensor:
    """[N]: the size of each perturbation in "linf" or "l2"; NaN where it holds one."""
    return largest_entries(delta) if norm == "linf" else l2_norms(delta)


def per_example(values: Tensor) -> Tensor:
    """[N] as [N, 1, 1, 1], for broadcasting over images."""
    return values.view(-1, 1, 1, 1)


def _require_l2(norm: str) -> None:
    if norm != "l2":
        raise ValueError(f"norm = {norm!r}: it must be {' or '.join(map(repr, NORMS))}.")


def precise(values: Tensor) -> Tensor:
    """The values in float32, or as they are in float64."""
    return values if values.dtype == torch.float64 else values.float()
