"""Adversarial weight perturbation (Wu et al. 2020): any objective, minimised at weights perturbed uphill.

    g = ∇_w loss(w)
    v = ‖w‖ / (‖lr·g‖ + 1e-20) · lr·g     layer by layer, matrices and filters only
    w ← w + γ·v;  one optimizer step with the gradient there;  w ← w − γ·v

That is the order of the authors' code: the step is made at the perturbed weights, so that weight decay is of these too,
and the perturbation is taken off afterwards. Restored before the step, only the decay would differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

PROXY_RATE = 0.01  # of the one SGD step that the authors' proxy makes; it cancels but for the 1e-20
TINY = 1e-20


def weight_perturbation(model: nn.Module, loss: Callable[[], Tensor], gamma: float) -> dict[str, Tensor]:
    """γ·v by the name of the parameter that it is to be added to.

    As in the authors' code: parameters of more than one dimension with 'weight' in their name. `loss` passes the
    objective's batches through `model`, which is in train mode; they pass a proxy copy of it, whose buffers are thrown
    away, here the model's own are put back: running statistics see the passes at the perturbed weights only.
    """
    weights = {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.ndim > 1 and "weight" in name
    }
    before = [buffer.clone() for buffer in model.buffers()]
    gradients = torch.autograd.grad(loss(), list(weights.values()), allow_unused=True)
    with torch.no_grad():
        for buffer, value in zip(model.buffers(), before, strict=True):
            buffer.copy_(value)
        steps = {
            name: PROXY_RATE * gradient
            for name, gradient in zip(weights, gradients, strict=True)
            if gradient is not None
        }
        return {name: gamma * weights[name].norm() / (step.norm() + TINY) * step for name, step in steps.items()}


@contextmanager
def perturbed_weights(model: nn.Module, by: Mapping[str, Tensor]) -> Iterator[None]:
    """`by` is added to the weights inside the context and taken off at its end, whatever was done to them meanwhile."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, difference in by.items():
            parameters[name].add_(difference)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, difference in by.items():
                parameters[name].sub_(difference)
