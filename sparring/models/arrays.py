"""A model's weights as numpy arrays: the form in which snapshots are sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparring.models.forward import plain

Arrays = dict[str, "np.ndarray[Any, Any]"]
HELPER = "helper:"  # begins the names of a helper network's weights; no module has a colon in its name


def to_arrays(model: nn.Module, *, half: bool = False) -> Arrays:
    """Parameters and buffers as contiguous CPU arrays. For a model on the CPU they share its memory.

    `half`: matrices and filters as bf16, which numpy holds as uint16. Where the attack passes them under autocast to
    bf16, nothing is lost.
    """
    weights = {name for name, each in plain(model).named_parameters() if each.ndim > 1 and each.dtype == torch.float32}
    return {
        name: _array(tensor.detach(), half and name in weights) for name, tensor in plain(model).state_dict().items()
    }


def arrays_of(weights: Mapping[str, Tensor]) -> Arrays:
    """Weights on the CPU as arrays, which share their memory."""
    return {name: _array(tensor, half=False) for name, tensor in weights.items()}


def with_helper(arrays: Arrays, helper: nn.Module | None) -> Arrays:
    """The weights of a model, and those of its helper network, if there is one, under separate names."""
    if helper is None:
        return arrays
    return arrays | {f"{HELPER}{name}": array for name, array in to_arrays(helper).items()}


def helper_of(arrays: Arrays) -> Arrays:
    """The helper network's weights among the arrays, under its own names."""
    return {name.removeprefix(HELPER): array for name, array in arrays.items() if name.startswith(HELPER)}


def load_arrays(model: nn.Module, arrays: Arrays) -> None:
    """Copy the weights into the model in place. This may be done between two attack steps."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            half = arrays[name].dtype == np.uint16 and tensor.dtype == torch.float32
            dtype = torch.bfloat16 if half else tensor.dtype
            tensor.copy_(torch.frombuffer(arrays[name].data, dtype=dtype).view(tensor.shape))


def size_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers. A snapshot in bf16 needs about half of it."""
    size: int = sum(tensor.nbytes for tensor in model.state_dict().values())
    return size


def _array(tensor: Tensor, half: bool) -> np.ndarray[Any, Any]:
    whole = tensor.bfloat16().cpu().contiguous().view(torch.uint16) if half else tensor.cpu().contiguous()
    array: np.ndarray[Any, Any] = whole.numpy()
    return array
