"""Asynchronous adversarial training with an enforced staleness bound.

import sparring
result = sparring.train(sparring.Config())
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sparring.config import Config, load
from sparring.errors import SparringError, UsageError

if TYPE_CHECKING:
    from sparring.commands.train import Result, resume, train
    from sparring.models.normalize import Normalize

__version__ = "0.1.0"
__all__ = ["Config", "Normalize", "Result", "SparringError", "UsageError", "load", "resume", "train"]


def __getattr__(name: str) -> Any:
    """torch and Ray are imported when training is first asked for, not with the package."""
    if name in ("train", "resume", "Result"):
        from sparring.commands import train as training

        return getattr(training, name)
    if name == "Normalize":
        from sparring.models.normalize import Normalize

        return Normalize
    raise AttributeError(f"module 'sparring' has no attribute {name!r}")
