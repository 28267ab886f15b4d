"""Adversarial weight perturbation (Wu et al. 2020): minimise any objective at weights that increase its loss.

    g = ∇_w loss(w)
    v = ‖w‖ / (‖lr·g‖ + 1e-20) · lr·g     per layer, matrices and filters only
    w ← w + γ·v;  one optimizer step with the gradient there;  w ← w − γ·v

This is the order of the authors' code: the step is made at the perturbed weights, so weight decay applies to these too,
and the perturbation is removed afterwards. If it were removed before the step, only the weight decay would differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

PROXY_RATE = 0.01  # learning rate of the authors' proxy; it cancels except for the 1e-20
TINY = 1e-20
Mean = Callable[[Sequence[Tensor]], Sequence[Tensor]]


def weight_perturbation(
    model: nn.Module, loss: Callable[[], Tensor], gamma: float, mean: Mean = lambda gradients: gradients
) -> dict[str, Tensor]:
    """γ·v by parameter name, to be added to the parameters.

    As in the authors' code, only parameters with more than one dimension and 'weight' in their name are perturbed.
    `loss` computes the objective with `model` in train mode. The authors use a copy of the model and discard its
    buffers; here the model's own buffers are restored. Either way the running statistics include only the passes at the
    perturbed weights. `mean` averages the gradients over the processes that share the step.
    """
    weights = {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.ndim > 1 and "weight" in name
    }
    before = [buffer.clone() for buffer in model.buffers()]
    found = torch.autograd.grad(loss(), list(weights.values()), allow_unused=True)
    used = {name: gradient for name, gradient in zip(weights, found, strict=True) if gradient is not None}
    with torch.no_grad():
        for buffer, value in zip(model.buffers(), before, strict=True):
            buffer.copy_(value)
        averaged = mean([*used.values()])
        steps = {name: PROXY_RATE * gradient for name, gradient in zip(used, averaged, strict=True)}
        return {name: gamma * weights[name].norm() / (step.norm() + TINY) * step for name, step in steps.items()}


@contextmanager
def perturbed_weights(model: nn.Module, by: Mapping[str, Tensor]) -> Iterator[None]:
    """Add `by` to the weights inside the context, and subtract it at the end from the weights as they are then."""
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
