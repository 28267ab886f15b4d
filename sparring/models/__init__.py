"""Networks that take float32 images in [0, 1] and normalise inside forward."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from sparring import plugins
from sparring.config import Channels, ModelSettings
from sparring.errors import SparringError, UsageError
from sparring.machine.devices import of_other_precision
from sparring.models.normalize import Normalize as Normalize

Shape = tuple[int, int, int]
Factory = Callable[[Shape, int], nn.Module]

MODELS = {
    "digits-cnn": "sparring.models.convolutional:digits_cnn",
    "mnist-32-64-1024": "sparring.models.convolutional:mnist_32_64_1024",
    "mnist-16-32-100": "sparring.models.convolutional:mnist_16_32_100",
    "cifar10-32-64-128": "sparring.models.convolutional:cifar10_32_64_128",
    "preact-resnet-18": "sparring.models.residual:preact_resnet_18",
    "preact-resnet-18-wong": "sparring.models.residual:preact_resnet_18_wong",
    "wrn-28-10": "sparring.models.residual:wrn_28_10",
    "wrn-28-10-silu": "sparring.models.residual:wrn_28_10_silu",
    "wrn-34-10": "sparring.models.residual:wrn_34_10",
    "wrn-40-2": "sparring.models.residual:wrn_40_2",
    "resnet-50": "sparring.models.residual:resnet_50",
    "timm:NAME": "sparring.models.pretrained:timm_model",
}


def build(
    settings: ModelSettings,
    shape: Shape,
    classes: int,
    seed: int,
    *,
    pretrained: bool = False,
    sizes: Iterable[int] = (),
    normalize: tuple[Channels, Channels] | None = None,
) -> nn.Module:
    """Build the network of the settings, initialised from `seed`; the global random state is not changed.

    Args:
        shape: (C, H, W) of the images.
        pretrained: with the weights that timm downloads.
        sizes: other sides of images that it must take.
        normalize: mean and standard deviation (data.mean, data.std) that the network is put behind; its parameters are
            then named `network.*`.

    Raises:
        UsageError: no such model, or it cannot take these images or tell these classes apart.
        SparringError: the weights cannot be downloaded.
    """
    factory = _factory(settings, pretrained)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs too
        try:
            model = factory(shape, classes)
        except SparringError:
            raise
        except Exception as error:  # the user's own code may raise anything
            raise UsageError(
                f"model.name = {settings.name!r} cannot be built for images of {shape} and {classes} classes "
                f"({plugins.described(error)}). It is called as factory(shape, classes)."
            ) from error
        return _checked(settings.name, model, shape, classes, sizes, normalize)


def adopt(
    model: nn.Module,
    shape: Shape,
    classes: int,
    *,
    sizes: Iterable[int] = (),
    normalize: tuple[Channels, Channels] | None = None,
) -> nn.Module:
    """A copy on the CPU of an existing model; otherwise as `build`.

    Raises:
        UsageError: it cannot take these images or tell these classes apart.
    """
    return _checked(type(model).__name__, copy.deepcopy(model).cpu(), shape, classes, sizes, normalize)


def _checked(
    name: str,
    model: nn.Module,
    shape: Shape,
    classes: int,
    sizes: Iterable[int],
    normalize: tuple[Channels, Channels] | None,
) -> nn.Module:
    _check_module(name, model)
    if normalize is not None:
        model = _normalized(name, model, shape[0], *normalize)
    for height, width in (shape[1:], *((size, size) for size in sizes)):
        require_logits(f"model.name = {name!r}", model, (shape[0], height, width), classes)
    return model


def require_logits(named: str, model: nn.Module, shape: Shape, classes: int) -> None:
    """Check the model's output by one forward pass on a black image; `named` begins error messages.

    Raises:
        UsageError: the model does not take images of `shape`, or its logits do not match the number of classes.
    """
    training = model.training
    try:
        with torch.no_grad():
            logits = model.eval()(torch.zeros(1, *shape))
    except Exception as error:  # the user's own code may raise anything
        raise UsageError(
            f"{named} cannot take images of shape {shape} ({plugins.described(error)}).{of_other_precision(model)}"
        ) from error
    finally:
        model.train(training)
    if not isinstance(logits, torch.Tensor):
        raise UsageError(f"{named} returns a {type(logits).__name__}; a tensor of logits is needed.")
    if tuple(logits.shape) != (1, classes):
        raise UsageError(
            f"{named} returns outputs of shape {tuple(logits.shape)} for one image; (1, {classes}) is needed."
        )


def count_parameters(model: nn.Module) -> int:
    """The number of trained parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def _factory(settings: ModelSettings, pretrained: bool) -> Factory:
    """The function that is called with shape and classes; model.options are checked and bound to it."""
    kind, colon, rest = settings.name.partition(":")
    from_timm = bool(colon) and kind == "timm"
    if pretrained and not from_timm:
        raise UsageError(
            f"model.pretrained = true with model.name = {settings.name!r}: only timm:NAME has pretrained weights. "
            f"Give a file of weights as model.checkpoint."
        )
    given: dict[str, Any] = {"name": rest, "pretrained": pretrained} if from_timm else {}
    found = plugins.resolve("model.name", "timm:NAME" if from_timm else settings.name, MODELS)
    if not callable(found):
        raise UsageError(f"model.name = {settings.name!r} is not a function; it is called as factory(shape, classes).")
    factory = cast(Factory, found)
    return partial(factory, **plugins.arguments("model.name", factory, given, settings.options, positional=2))


def _check_module(name: str, model: object) -> None:
    if not isinstance(model, nn.Module):
        raise UsageError(f"model.name = {name!r} made a {type(model).__name__}, not a torch.nn.Module.")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UsageError(f"model.name = {name!r} has no parameters to train.")


def _normalized(name: str, network: nn.Module, channels: int, mean: Channels, std: Channels) -> nn.Module:
    """The network with (x − mean) / std before it; refuses to normalise twice."""
    settings = f"data.mean = {mean} and data.std = {std}"
    if any(isinstance(module, Normalize) for module in network.modules()):
        raise UsageError(
            f"{settings}: model.name = {name!r} already normalises its images. Unset both, or choose a network that "
            f"does not normalise."
        )
    if any(isinstance(value, tuple) and len(value) != channels for value in (mean, std)):
        raise UsageError(f"{settings}: images have {channels} channels. Give one number, or {channels} numbers.")
    return nn.Sequential(OrderedDict(normalize=Normalize(mean, std), network=network))
