"""The device on which a process computes."""

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
