"""Networks of timm (PyTorch Image Models) by name, with the normalisation of their pretraining."""

from __future__ import annotations

import difflib
import importlib
from collections import OrderedDict
from types import ModuleType
from typing import Any

from torch import nn

from sparring.errors import SparringError, UsageError
from sparring.machine.torchvision_import import torchvision
from sparring.models.normalize import Normalize


def timm_model(shape: tuple[int, int, int], classes: int, *, name: str, pretrained: bool, **options: Any) -> nn.Module:
    """timm's network `name` for images of `shape` in [0, 1], with a head for `classes`.

    The normalisation is inside, so that ε is a pixel intensity. `options` are those of timm.create_model.

    Raises:
        UsageError: timm is not there, or has no such network.
        SparringError: the weights cannot be downloaded, or there are none.
    """
    timm = _timm(name)
    if name.split(".")[0] not in timm.list_models():
        nearest = difflib.get_close_matches(name, timm.list_models(), n=1, cutoff=0.0)[0]
        raise UsageError(
            f"model.name = 'timm:{name}': timm {timm.__version__} has no such model; the nearest is {nearest}."
        )
    network = _created(timm, name, pretrained, **{"num_classes": classes, "in_chans": shape[0]} | options)
    if hasattr(network, "set_input_size"):  # transformers have position embeddings for one image size
        network.set_input_size(img_size=shape[1:])
    given = network.pretrained_cfg
    return nn.Sequential(OrderedDict(normalize=_normalize(shape[0], given["mean"], given["std"]), network=network))


def _timm(name: str) -> ModuleType:
    torchvision()  # timm imports it, which fails with a CPU-only torch unless it was prepared
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise UsageError(f"model.name = 'timm:{name}' needs timm ({error}): pip install 'sparring[timm]'.") from error


def _created(timm: ModuleType, name: str, pretrained: bool, **how: Any) -> Any:
    try:
        return timm.create_model(name, pretrained=pretrained, **how)
    except Exception as error:  # the hub's client raises many kinds of errors
        if not pretrained:
            raise
        reason = next(iter(str(error).splitlines()), "")
        raise SparringError(
            f"model.pretrained = true: the weights of timm:{name} could not be loaded ({type(error).__name__}: "
            f"{reason}). Give them as a file by model.checkpoint, or set model.pretrained to false."
        ) from error


def _normalize(channels: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Normalize:
    """Normalisation per channel, or by the mean over channels if images have another number of channels."""
    if channels == len(mean):
        return Normalize(mean, std)
    return Normalize(sum(mean) / len(mean), sum(std) / len(std))
