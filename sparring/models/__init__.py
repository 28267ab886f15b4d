"""What is trained: networks that take float32 images in [0, 1] and normalise inside forward."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import nn

from sparring.config import ModelSettings
from sparring.errors import SparringError, UsageError
from sparring.models.convolutional import digits_cnn, mnist_16_32_100, mnist_32_64_1024
from sparring.models.pretrained import timm_model
from sparring.models.residual import preact_resnet_18, resnet_50, wide_resnet

Shape = tuple[int, int, int]
Factory = Callable[[Shape, int], nn.Module]

MODELS: dict[str, Factory] = {
    "digits-cnn": digits_cnn,
    "mnist-32-64-1024": mnist_32_64_1024,
    "mnist-16-32-100": mnist_16_32_100,
    "preact-resnet-18": preact_resnet_18,
    "wrn-28-10": partial(wide_resnet, depth=28, width=10),
    "wrn-28-10-silu": partial(wide_resnet, depth=28, width=10, activation=nn.SiLU),
    "wrn-34-10": partial(wide_resnet, depth=34, width=10),
    "wrn-40-2": partial(wide_resnet, depth=40, width=2),
    "resnet-50": resnet_50,
}


def build(
    settings: ModelSettings,
    shape: Shape,
    classes: int,
    seed: int,
    *,
    pretrained: bool = False,
    sizes: Iterable[int] = (),
) -> nn.Module:
    """The network of the settings, initialised from `seed` without touching the global random state.

    Args:
        shape: (C, H, W) of the images.
        pretrained: with the weights that timm downloads.
        sizes: other sides of images that it must take.

    Raises:
        UsageError: no such model, or it cannot take these images or tell these classes apart.
        SparringError: the weights cannot be downloaded.
    """
    factory = _factory(settings.name, pretrained)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs too
        try:
            model = factory(shape, classes)
        except SparringError:
            raise
        except Exception as error:  # whatever the user's own code raises
            raise UsageError(
                f"model.name = {settings.name!r} cannot be built for images of {shape} and {classes} classes "
                f"({type(error).__name__}: {error}). It is called as factory(shape, classes)."
            ) from error
        for height, width in (shape[1:], *((size, size) for size in sizes)):
            _check(settings.name, model, (shape[0], height, width), classes)
    return model


def count_parameters(model: nn.Module) -> int:
    """Numbers that are trained."""
    return sum(parameter.numel() for parameter in model.parameters())


def _factory(name: str, pretrained: bool) -> Factory:
    if name.startswith("timm:"):
        return partial(timm_model, name=name.removeprefix("timm:"), pretrained=pretrained)
    if pretrained:
        raise UsageError(
            f"model.pretrained = true with model.name = {name!r}: only timm:NAME has weights to download. Give a file "
            f"of weights as model.checkpoint."
        )
    if name in MODELS:
        return MODELS[name]
    module_name, colon, attribute = name.partition(":")
    if not colon:
        nearest = difflib.get_close_matches(name, MODELS, n=1, cutoff=0.0)[0]
        raise UsageError(
            f"model.name = {name!r}: no such model; the nearest is {nearest}. Your own is given as module:factory."
        )
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except Exception as error:  # importing runs the user's own code
        raise UsageError(
            f"model.name = {name!r}: {type(error).__name__}: {error}. The module must be importable from the folder "
            f"that you start in."
        ) from error
    if not callable(found):
        raise UsageError(f"model.name = {name!r} is no function; it is called as factory(shape, classes).")
    factory: Factory = found
    return factory


def _check(name: str, model: object, shape: Shape, classes: int) -> None:
    """One forward pass on a black image."""
    if not isinstance(model, nn.Module):
        raise UsageError(f"model.name = {name!r} made a {type(model).__name__}, not a torch.nn.Module.")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UsageError(f"model.name = {name!r} has no parameters to train.")
    training = model.training
    try:
        with torch.no_grad():
            logits = model.eval()(torch.zeros(1, *shape))
    except Exception as error:  # whatever the user's own code raises
        raise UsageError(
            f"model.name = {name!r} cannot take images of shape {shape} ({type(error).__name__}: {error})."
        ) from error
    finally:
        model.train(training)
    if not isinstance(logits, torch.Tensor):
        raise UsageError(f"model.name = {name!r} gives a {type(logits).__name__}; a tensor of logits is needed.")
    if tuple(logits.shape) != (1, classes):
        raise UsageError(
            f"model.name = {name!r} gives outputs of shape {tuple(logits.shape)} for one image; (1, {classes}) is "
            f"needed."
        )
