"""The optimizer of the settings."""

from __future__ import annotations

import inspect
from typing import Any, TypeVar, cast

import torch
from torch import nn
from torch.optim import Optimizer

from sparring.config import OptimizerSettings

MARKED = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
Kind = TypeVar("Kind", bound=Optimizer)
NORMALISATION = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def make_optimizer(settings: OptimizerSettings, model: nn.Module) -> Optimizer:
    """The optimizer of the settings; its rate is set before every step."""
    parameters = decay_groups(model, settings.decay_norm)
    if settings.name == "sgd":
        return uncompiled(torch.optim.SGD)(
            parameters,
            lr=settings.lr,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
            weight_decay=settings.weight_decay,
            fused=True,
        )
    kind = torch.optim.Adam if settings.name == "adam" else torch.optim.AdamW
    return uncompiled(kind)(
        parameters,
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        weight_decay=settings.weight_decay,
        fused=True,
    )


def uncompiled(kind: type[Kind]) -> type[Kind]:
    """The same optimizer, whose steps are not marked for torch's compiler.

    torch wraps these methods to keep them out of compiled graphs, and imports its compiler for that: 1.5 s and 73 MiB
    of every trainer. Here a network may be compiled, a step never is. The methods inside compute the same bits.
    """
    inner: dict[str, Any] = {name: inspect.unwrap(getattr(kind, name)) for name in MARKED}
    inner["step"] = torch.no_grad()(inspect.unwrap(kind.step))
    return cast(type[Kind], type(kind.__name__, (kind,), inner))


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
