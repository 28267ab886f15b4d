"""What a caller of the Python interface may have changed for the process, and what it may do at the same time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import nn

from sparring.errors import UsageError

DEVICES = ("cpu", "cuda")


@contextmanager
def usual_modes() -> Iterator[None]:
    """Inside, gradients are recorded, nothing is cast to another precision unasked, and new tensors are float32."""
    default = torch.get_default_dtype()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device in filter(torch.is_autocast_enabled, DEVICES):
            stack.enter_context(torch.autocast(device, enabled=False))
        stack.callback(torch.set_default_dtype, default)
        torch.set_default_dtype(torch.float32)
        yield


@contextmanager
def alone_with(model: nn.Module) -> Iterator[None]:
    """Inside, no other thread is: who attacks a model puts it into eval mode and restores it afterwards, so that two at
    a time would disturb each other.

    Raises:
        UsageError: it is no model.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"model is a {type(model).__name__}: a torch.nn.Module is needed.")
    with _making:
        lock = _locks.setdefault(model, threading.RLock())
    with lock:
        yield


_making = threading.Lock()
_locks: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
