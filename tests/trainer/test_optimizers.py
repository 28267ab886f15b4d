"""The optimizer is that of the settings."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparring.config import OptimizerSettings
from sparring.trainer.optimizers import make_optimizer


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
