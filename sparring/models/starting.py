"""Initial weights of a run: those of another run, or of a file."""

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
from sparring.models.names import named_alike

log = logging.getLogger(__name__)
WRAPPERS = ("state_dict", "model_state_dict", "model", "net")  # keys under which training scripts save a state dict
NORMALISATION = ("normalize.mean", "normalize.std")
MAY_LACK = (*NORMALISATION, "num_batches_tracked")
UNSCALED = (torch.int8, torch.uint8, torch.float8_e4m3fn, torch.float8_e5m2)  # of quantised networks
MAX_NAMES = 5  # in an error message


def not_fresh(settings: ModelSettings) -> bool:
    """Whether the run starts from weights of another training."""
    return settings.pretrained or settings.checkpoint is not None


def start_from(settings: ModelSettings, model: nn.Module, shape: Shape, classes: int, seed: int) -> None:
    """Load the initial weights of a run with these settings into the model, if they are not random.

    Raises:
        UsageError: both model.pretrained and model.checkpoint are set.
        SparringError: the weights cannot be loaded, or are of another network.
    """
    if settings.pretrained and settings.checkpoint is not None:
        raise UsageError(
            f"model.pretrained = true and model.checkpoint = {str(settings.checkpoint)!r}: a run starts from only one "
            f"of them. Unset the other."
        )
    if settings.pretrained:
        model.load_state_dict(build(settings, shape, classes, seed, pretrained=True).state_dict())
    if settings.checkpoint is not None:
        load_checkpoint(settings.checkpoint, model, classes)


def load_checkpoint(path: Path, model: nn.Module, classes: int) -> tuple[str, ...]:
    """Load the weights of `path` into the model; returns the names of a classification head that is not loaded.

    Args:
        path: a run's folder (its last checkpoint), a checkpoint's folder, a .safetensors file, or a torch file of a
            state dict. Nothing in it is executed.

    Raises:
        UsageError: there is no such file, it is of another network or another normalisation, or weights are not finite.
        SparringError: it cannot be read.
    """
    setting, own = f"model.checkpoint = {str(path)!r}", model.state_dict()
    weights = named_alike(_read(path, setting), model)
    fresh = _head(own, weights, classes)
    _require_same_network(setting, own, weights, fresh)
    _require_same_normalisation(setting, own, weights)
    _require_finite(setting, weights)
    model.load_state_dict({**own, **{name: weights[name] for name in weights if name not in fresh}})
    if fresh:
        theirs = len(weights[fresh[0]])
        log.warning(
            "%s: %s are not loaded, but initialised at random: %d classes instead of %d",
            *(setting, ", ".join(fresh), classes, theirs),
        )
    return fresh


def _read(path: Path, setting: str) -> dict[str, Tensor]:
    file = _file(path.expanduser(), setting)
    try:
        found: Any = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
    except (OSError, SafetensorError) as error:
        raise SparringError(f"{setting}: {file} cannot be read ({error}).") from error
    except Exception as error:  # torch raises many kinds of errors for damaged files
        reason = next(iter(str(error).splitlines()), "")
        raise SparringError(
            f"{setting}: {file} is not a torch file of plain tensors ({type(error).__name__}: {reason}). Save the "
            f"model's state_dict(), best as .safetensors. Other objects are not loaded, because they may run code."
        ) from error
    while isinstance(found, dict) and (inner := [key for key in WRAPPERS if isinstance(found.get(key), dict)]):
        networks = [key for key in inner if any(isinstance(value, Tensor) for value in found[key].values())]
        if len(networks) > 1:
            raise UsageError(
                f"{setting}: {file} has several networks, {' and '.join(map(repr, networks))}. Save the state dict of "
                f"one."
            )
        found = found[(networks or inner)[0]]
    if not isinstance(found, dict) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise SparringError(f"{setting}: {file} has no state dict, which maps names to tensors. Save one.")
    return {str(name): tensor for name, tensor in found.items()}


def _file(path: Path, setting: str) -> Path:
    if path.is_file():
        return path
    checkpoints = sorted((path / "checkpoints").glob("step-*"))
    folders = [path, *checkpoints[-1:]]
    found = [folder / "model.safetensors" for folder in folders if (folder / "model.safetensors").is_file()]
    if not found:
        raise UsageError(
            f"{setting} is not a file, not a checkpoint folder (with model.safetensors) and not a run folder with a "
            f"checkpoint. Give one of these."
        )
    return found[0]


def _head(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], classes: int) -> tuple[str, ...]:
    """Weight and bias of the classification head, if `weights` have another number of classes; else ()."""
    different = tuple(name for name in own if name in weights and own[name].shape != weights[name].shape)
    one_layer = len({name.rpartition(".")[0] for name in different}) == 1
    by_classes = all(
        own[name].ndim > 0 and len(own[name]) == classes and own[name].shape[1:] == weights[name].shape[1:]
        for name in different
    )
    return different if one_layer and by_classes else ()


def _require_same_network(
    setting: str, own: Mapping[str, Tensor], weights: Mapping[str, Tensor], fresh: tuple[str, ...]
) -> None:
    lacking = [name for name in own if name not in weights and not name.endswith(MAY_LACK)]
    odd = [name for name in weights if name in own and own[name].shape != weights[name].shape and name not in fresh]
    findings = {
        "it lacks": lacking,
        "the model has no": [name for name in weights if name not in own],
        "other shapes": [f"{name} {tuple(weights[name].shape)} for {tuple(own[name].shape)}" for name in odd],
    }
    parts = [f"{what} {_some(names)}" for what, names in findings.items() if names]
    if parts:
        raise UsageError(
            f"{setting} is of another network than model.name: {'; '.join(parts)}. Set model.name to that network."
        )


def _require_same_normalisation(setting: str, own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    for name in (each for each in own if each.endswith(NORMALISATION) and each in weights):
        here, there = own[name].flatten().double(), weights[name].flatten().double()
        if not torch.allclose(here, there, rtol=1e-3, atol=1e-4):
            kind = name.rpartition(".")[2]
            raise UsageError(
                f"{setting}: its network normalises images by a {kind} of {_numbers(there)}, and this one by "
                f"{_numbers(here)}. Set data.{kind} to that of the weights, or where the network normalises itself its "
                f"own."
            )


def _numbers(values: Tensor) -> str:
    return ", ".join(f"{value:.4g}" for value in values.tolist())


def _require_finite(setting: str, weights: Mapping[str, Tensor]) -> None:
    odd = [name for name, tensor in weights.items() if tensor.is_complex() or tensor.dtype in UNSCALED]
    if odd:
        raise UsageError(
            f"{setting}: {_some(odd)}: {weights[odd[0]].dtype} is no type of whole weights, which are floats of 16 "
            f"bits or more. Save them as float32, with their scale multiplied in."
        )
    spoilt = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    if spoilt:
        raise UsageError(
            f"{setting}: {_some(spoilt)} {'has' if len(spoilt) == 1 else 'have'} entries that are not finite, so that "
            f"every loss would be NaN. Take weights from before that training diverged."
        )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more
