"""The device on which a process computes, and the precision that a model's weights must have."""

from __future__ import annotations

from itertools import chain

import torch
from torch import nn

from sparring.errors import SparringError


def device_for(name: str, num_gpus: float) -> torch.device:
    """The device of the settings; `auto` is CUDA if a GPU is reserved.

    Raises:
        SparringError: CUDA is requested but not available.
    """
    requested = ("cuda" if num_gpus > 0 else "cpu") if name == "auto" else name
    if requested == "cuda" and not torch.cuda.is_available():
        raise SparringError(
            f"trainer.device = {name!r} with num_gpus = {num_gpus:g}: CUDA is not available in this process. "
            f"Install a CUDA build of torch, or set trainer.device to 'cpu' and num_gpus to 0."
        )
    return torch.device(requested)


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's weights; the CPU if it has none."""
    first = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def of_other_precision(model: nn.Module) -> str:
    """What to do about weights that are not float32, as the end of an error message; empty if they are."""
    kinds = sorted({str(each.dtype).removeprefix("torch.") for each in model.parameters() if each.is_floating_point()})
    if kinds in ([], ["float32"]):
        return ""
    return (
        f" Its weights are {', '.join(kinds)}: pass model.float(). Passes in half precision are a setting of a run, "
        f"model.precision = 'bf16'."
    )
