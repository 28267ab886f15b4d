"""One tiny run of each engine, to its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from sparring.commands.train import train
from tests.support.runs import Place, small

ENGINES: list[dict[str, Any]] = [
    {"engine": "sync"},
    {"engine": "sync", "train": {"replays": 2, "epochs": 2}, "attack": {"name": "fgsm"}},
    {"engine": "simulated", "simulated": {"staleness": 2}},
    {"engine": "ddp", "ddp": {"ranks": 2}, "train": {"shards_per_step": 2}},
    {"engine": "ray", "workers": {"count": 1}},
    {"engine": "sync", "attack": {"name": "fgsm", "start": "previous"}, "train": {"shards_per_step": 2}},
    {"engine": "sync", "attack": {"start": "last"}},
    {"engine": "sync", "allocator": {"name": "bullettrain", "robust_steps": 0, "slots": 8}},
    {"engine": "sync", "attack": {"steps": 2}, "yopo": {"passes": 1, "inner_steps": 2}},
    {"engine": "simulated", "attack": {"name": "fgsm"}, "objective": {"name": "grad-align"}},
    {"engine": "ray", "attack": {"name": "fgsm"}, "objective": {"name": "grad-align"}},
    {"engine": "virtual", "attack": {"name": "fgsm"}, "objective": {"name": "grad-align"}},
]
IDS = [
    "sync",
    "free",
    "simulated",
    "ddp",
    "ray",
    "previous",
    "last",
    "slots",
    "yopo",
    *(f"grad-align, {each}" for each in ("simulated", "ray", "virtual")),
]


def mlp(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A network whose batch norm cannot train on one example."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, classes))


@pytest.mark.parametrize("groups", ENGINES, ids=IDS)
def test_a_tiny_run_trains_on_every_example_and_ends_with_an_evaluated_model(
    tmp_path: Path, shared_ray: Place, groups: dict[str, Any]
) -> None:
    """33 examples in tickets of 16: the last one joins the ticket before it."""
    training = {"epochs": 2, "max_steps": None, "batch_size": 16, **groups.get("train", {})}
    tree = {**groups, "data": {"limit": 33}, "model": {"name": f"{__name__}:mlp"}, "train": training}
    result = train(shared_ray(small(tmp_path, **tree)), progress=False)
    summary = result.run.read_json("summary.json") or {}
    assert result.phase == "finished" and summary["examples"] == 2 * 33
    assert 0.0 <= summary["robust_accuracy"] <= summary["clean_accuracy"] <= 1.0
