"""Which device a process computes on."""

from __future__ import annotations

from itertools import chain

import torch
from torch import nn

from sparring.errors import SparringError


def device_for(name: str, num_gpus: float) -> torch.device:
    """The device of the settings; `auto` is CUDA where a GPU is reserved.

    Raises:
        SparringError: CUDA is asked for and there is none.
    """
    wanted = ("cuda" if num_gpus > 0 else "cpu") if name == "auto" else name
    if wanted == "cuda" and not torch.cuda.is_available():
        raise SparringError(
            f"trainer.device = {name!r} with num_gpus = {num_gpus:g}: CUDA is not available in this process. "
            f"Install a CUDA build of torch, or set trainer.device to 'cpu' and num_gpus to 0."
        )
    return torch.device(wanted)


def device_of(model: nn.Module) -> torch.device:
    """Where the model's weights lie; the CPU where it has none."""
    first = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None else first.device
