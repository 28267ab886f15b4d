"""Asynchronous adversarial training with an enforced staleness bound.

    import sparring
    result = sparring.train("recipes/mnist-async.toml", overrides={"train.epochs": 2})
    model = result.load_model()

What stands below is imported when it is first asked for: torch with the most of it, Ray only where it trains.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sparring.config import Config, load
from sparring.errors import SparringError, UsageError
from sparring.machine import torchvision_import

if TYPE_CHECKING:
    from sparring.commands.evaluate import load_model
    from sparring.commands.train import Result, resume, train
    from sparring.evaluation.calling import evaluate
    from sparring.evaluation.robustness import Evaluation
    from sparring.models import Normalize

__version__ = "0.1.0"
__all__ = [
    "Config",
    "Evaluation",
    "Normalize",
    "Result",
    "SparringError",
    "UsageError",
    "evaluate",
    "load",
    "load_model",
    "resume",
    "train",
]
_PLACES = {
    "Evaluation": "sparring.evaluation.robustness",
    "Normalize": "sparring.models",
    "Result": "sparring.commands.train",
    "evaluate": "sparring.evaluation.calling",
    "load_model": "sparring.commands.evaluate",
    "resume": "sparring.commands.train",
    "train": "sparring.commands.train",
}
torchvision_import.install()
_MODULES = ("allocators", "attacks", "objectives")


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    if name in _MODULES:
        return import_module(f"sparring.{name}")
    raise AttributeError(f"module 'sparring' has no attribute {name!r}")
