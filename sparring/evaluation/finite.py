"""A model for attacks of other packages, which cannot handle values that are not finite."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparring.attacks.gradients import finite
from sparring.attacks.norms import largest_entries
from sparring.objectives.predictions import are_finite


class FinitePredictions:
    """Logits and gradients of a model with 0 for what is not finite; notes the examples that this concerns.

    Args:
        x: float32 [N, C, H, W], the clean images; what is passed in is attributed to the nearest of them.
        norm, radius: of the ball; what is outside it is of no example.

    non_finite_logits, non_finite_gradient: bool [N].
    """

    def __init__(self, model: nn.Module, x: Tensor, norm: str, radius: float) -> None:
        self.model, self.clean, self.radius = model, x.flatten(1), radius
        self.power = float("inf") if norm == "linf" else 2.0
        self.non_finite_logits = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.non_finite_gradient = torch.zeros_like(self.non_finite_logits)

    def __call__(self, images: Tensor) -> Tensor:
        """float32 [n, K]: logits of the images [n, C, H, W]; all zero where one is not finite."""
        inner = images.clone()
        if inner.requires_grad:
            inner.register_hook(lambda gradient: self._finite_gradient(gradient, images))  # type: ignore[no-untyped-call]
        logits: Tensor = self.model(inner)
        logits = logits.float()  # the packages compute in the type of the images
        sound = are_finite(logits)
        if bool(sound.all()):
            return logits
        self._note(self.non_finite_logits, images.detach()[~sound])
        return torch.where(sound[:, None], logits, torch.zeros_like(logits))

    def _finite_gradient(self, gradient: Tensor, images: Tensor) -> Tensor:
        spoilt = ~largest_entries(gradient).isfinite()
        if bool(spoilt.any()):
            self._note(self.non_finite_gradient, images.detach()[spoilt])
        return finite(gradient)

    def _note(self, flags: Tensor, images: Tensor) -> None:
        distances = torch.cdist(
            images.flatten(1), self.clean, p=self.power, compute_mode="donot_use_mm_for_euclid_dist"
        )
        nearest = distances.min(1)
        inside = nearest.values <= self.radius * (1 + 1e-5) + 1e-6
        flags[nearest.indices[inside].to(flags.device)] = True
