"""The optimizer of the settings."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sparring.config import OptimizerSettings

NORMALISATION = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def make_optimizer(settings: OptimizerSettings, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of the settings; its rate is set before every step."""
    parameters = decay_groups(model, settings.decay_norm)
    if settings.name == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=settings.lr,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
            weight_decay=settings.weight_decay,
            fused=True,
        )
    kind = torch.optim.Adam if settings.name == "adam" else torch.optim.AdamW
    return kind(
        parameters,
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        weight_decay=settings.weight_decay,
        fused=True,
    )


def decay_groups(model: nn.Module, decay_norm: bool) -> list[dict[str, Any]]:
    """The parameters as an optimizer takes them: all in one group, or those of normalisation layers apart, undecayed.

    That is what the ImageNet code of Wong et al. leaves out (parameters of modules named BatchNorm, 5.3); biases
    of convolutions and linear layers decay there too, and its CIFAR code decays everything.
    """
    if decay_norm:
        return [{"params": list(model.parameters())}]
    layers = [module for module in model.modules() if isinstance(module, NORMALISATION)]
    undecayed = {id(parameter) for layer in layers for parameter in layer.parameters()}
    return [
        {"params": [each for each in model.parameters() if id(each) not in undecayed]},
        {"params": [each for each in model.parameters() if id(each) in undecayed], "weight_decay": 0.0},
    ]
