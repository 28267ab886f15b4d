"""Small real runs for the tests of the engines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sparring.commands.train import Result
from sparring.config import Config, from_tree
from sparring.trainer import checkpoints

Place = Callable[[Config], Config]  # where a run of the Ray engine takes place


def small(root: Path, **groups: Any) -> Config:
    """Digits, few steps, a cheap judgement; `groups` change settings by group."""
    tree: dict[str, Any] = {
        "run": {"root": str(root)},
        "train": {"epochs": 1, "max_steps": 12, "batch_size": 64},
        "attack": {"steps": 3, "warmup_epochs": 0.5},
        "evaluation": {"steps": 2, "restarts": 1, "samples": 50},
        "metrics": {"every_steps": 1},
        "workers": {"count": 2, "threads": 1},
        "trainer": {"threads": 1},
    }
    for group, values in groups.items():
        tree[group] = {**tree.get(group, {}), **values} if isinstance(values, dict) else values
    return from_tree(tree)


def weights_of(result: Result) -> bytes:
    """The bytes of the last checkpoint's weights."""
    path = checkpoints.latest(result.run.checkpoints)
    assert path is not None
    return (path / "model.safetensors").read_bytes()
