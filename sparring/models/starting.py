"""Weights that a run starts from: those of another run, or of a file."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sparring.config import ModelSettings
from sparring.errors import SparringError, UsageError
from sparring.models import Shape, build

log = logging.getLogger(__name__)
WRAPPERS = ("state_dict", "model_state_dict", "model")  # what training scripts put a state dict under
MAY_LACK = ("normalize.mean", "normalize.std", "num_batches_tracked")
NAMED = 5


def not_fresh(settings: ModelSettings) -> bool:
    """The run starts from weights that another training has made."""
    return settings.pretrained or settings.checkpoint is not None


def start_from(settings: ModelSettings, model: nn.Module, shape: Shape, classes: int, seed: int) -> None:
    """Put the weights into the model that a run by these settings starts from, where they are not fresh.

    Raises:
        UsageError: both kinds are asked for.
        SparringError: they cannot be had, or are of another network.
    """
    if settings.pretrained and settings.checkpoint is not None:
        raise UsageError(
            f"model.pretrained = true and model.checkpoint = {str(settings.checkpoint)!r}: a run starts from one of "
            f"them. Unset the other."
        )
    if settings.pretrained:
        model.load_state_dict(build(settings, shape, classes, seed, pretrained=True).state_dict())
    if settings.checkpoint is not None:
        load_checkpoint(settings.checkpoint, model, classes)


def load_checkpoint(path: Path, model: nn.Module, classes: int) -> tuple[str, ...]:
    """Put the weights of `path` into the model; returns the names of a head that stays fresh.

    Args:
        path: a run's folder (its last checkpoint), a checkpoint's folder, a .safetensors file, or a torch file of a
            state dict. Nothing in it is executed.

    Raises:
        UsageError: there is no such file, or it is of another network.
        SparringError: it cannot be read.
    """
    told, own = f"model.checkpoint = {str(path)!r}", model.state_dict()
    weights = _named_as(model, _read(path, told))
    fresh = _head(own, weights, classes)
    _refuse_others(told, own, weights, fresh)
    model.load_state_dict({**own, **{name: weights[name] for name in weights if name not in fresh}})
    if fresh:
        theirs = len(weights[fresh[0]])
        log.warning("%s: %s stay fresh, for %d classes instead of %d", told, ", ".join(fresh), classes, theirs)
    return fresh


def _read(path: Path, told: str) -> dict[str, Tensor]:
    file = _file(path.expanduser(), told)
    try:
        found: Any = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
    except (OSError, SafetensorError) as error:
        raise SparringError(f"{told}: {file} cannot be read ({error}).") from error
    except Exception as error:  # torch raises whatever the bytes provoke
        said = next(iter(str(error).splitlines()), "")
        raise SparringError(
            f"{told}: {file} is no torch file of plain tensors ({type(error).__name__}: {said}). Save the model's "
            f"state_dict(), best as .safetensors: other objects are not loaded, since they may run code."
        ) from error
    while isinstance(found, dict) and (inner := [found[key] for key in WRAPPERS if isinstance(found.get(key), dict)]):
        found = inner[0]
    if not isinstance(found, dict) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise SparringError(f"{told}: {file} holds no state dict, which maps names to tensors.")
    return {str(name).removeprefix("module."): tensor for name, tensor in found.items()}


def _file(path: Path, told: str) -> Path:
    if path.is_file():
        return path
    checkpoints = sorted((path / "checkpoints").glob("step-*"))
    folders = [path, *checkpoints[-1:]]
    found = [folder / "model.safetensors" for folder in folders if (folder / "model.safetensors").is_file()]
    if not found:
        raise UsageError(
            f"{told} is no file, no checkpoint's folder (with model.safetensors) and no run's folder with a checkpoint."
        )
    return found[0]


def _named_as(model: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Files of torchvision's and timm's networks know nothing of the normalisation that stands before them here."""
    inner = [name for name, _ in model.named_children() if name != "normalize"]
    if len(inner) != 1 or any(name.startswith(f"{inner[0]}.") for name in weights):
        return weights
    return {f"{inner[0]}.{name}": tensor for name, tensor in weights.items()}


def _head(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], classes: int) -> tuple[str, ...]:
    """Weight and bias of the one layer that has as many outputs as there are classes, where `weights` have others."""
    odd = tuple(name for name in own if name in weights and own[name].shape != weights[name].shape)
    one_layer = len({name.rpartition(".")[0] for name in odd}) == 1
    by_classes = all(
        own[name].ndim > 0 and len(own[name]) == classes and own[name].shape[1:] == weights[name].shape[1:]
        for name in odd
    )
    return odd if one_layer and by_classes else ()


def _refuse_others(told: str, own: Mapping[str, Tensor], weights: Mapping[str, Tensor], fresh: tuple[str, ...]) -> None:
    lacking = [name for name in own if name not in weights and not name.endswith(MAY_LACK)]
    odd = [name for name in weights if name in own and own[name].shape != weights[name].shape and name not in fresh]
    findings = {
        "it lacks": lacking,
        "the model has no": [name for name in weights if name not in own],
        "other shapes": [f"{name} {tuple(weights[name].shape)} for {tuple(own[name].shape)}" for name in odd],
    }
    parts = [f"{what} {_some(names)}" for what, names in findings.items() if names]
    if parts:
        raise UsageError(f"{told} is of another network than model.name: {'; '.join(parts)}. Choose that model.name.")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
