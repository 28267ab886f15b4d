"""How many classes a model tells apart, whoever built it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparring.attacks import frozen
from sparring.errors import UsageError
from sparring.machine.devices import device_of, of_other_precision


def outputs_of(model: nn.Module, x: Tensor, classes: int) -> int:
    """Logits that the model gives for an image.

    Args:
        x: float32 [1, C, H, W] in [0, 1]. classes: those of the data; there must be at least as many logits.

    Raises:
        UsageError: it is no model of such images and classes.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"model is a {type(model).__name__}: a torch.nn.Module is needed.")
    shape = tuple(x.shape[1:])
    try:
        with frozen(model), torch.no_grad():
            logits = model(x.clone().to(device_of(model)))
    except Exception as error:  # whatever the user's own code raises
        raise UsageError(
            f"model cannot take images of {shape} ({type(error).__name__}: {error}).{of_other_precision(model)}"
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != 1:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UsageError(f"model returns {found} for one image: logits of shape (1, classes) are needed.")
    if logits.shape[1] < classes:
        raise UsageError(f"model returns {logits.shape[1]} logits, but data has {classes} classes.")
    return logits.shape[1]
