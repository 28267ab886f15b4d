"""The optimizer is that of the settings."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from sparring.config import OptimizerSettings
from sparring.trainer.optimizers import make_optimizer, uncompiled


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_moves_as_its_formula_says(nesterov: bool) -> None:
    model = nn.Linear(1, 1, bias=False)
    settings = OptimizerSettings(name="sgd", lr=0.1, momentum=0.9, nesterov=nesterov, weight_decay=0.01)
    optimizer = make_optimizer(settings, model)
    weight, velocity = float(model.weight.detach()), 0.0
    for gradient in (1.0, -2.0, 0.5):
        model.weight.grad = torch.full((1, 1), gradient)
        optimizer.step()
        decayed = gradient + 0.01 * weight
        velocity = 0.9 * velocity + decayed
        weight -= 0.1 * (decayed + 0.9 * velocity if nesterov else velocity)
    assert float(model.weight.detach()) == pytest.approx(weight, abs=1e-6)


def trained(kind: Callable[..., Optimizer]) -> Tensor:
    """The weights after five steps, with the optimizer's state saved and restored in between."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))
    optimizer = kind(model.parameters(), lr=0.1, weight_decay=0.01, fused=True)
    for step in range(5):
        optimizer.zero_grad()
        model(torch.ones(2, 5) * step).square().sum().backward()
        optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
    return nn.utils.parameters_to_vector(model.parameters())


@pytest.mark.parametrize("kind", [SGD, Adam, AdamW])
def test_without_the_compilers_marks_the_weights_are_the_same(kind: type[Optimizer]) -> None:
    assert torch.equal(trained(uncompiled(kind)), trained(kind))
