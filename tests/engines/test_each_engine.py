"""One tiny run of each engine, to its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sparring.commands.train import train
from tests.support.runs import Place, small

ENGINES: list[dict[str, Any]] = [
    {"engine": "sync"},
    {"engine": "sync", "train": {"replays": 2, "epochs": 2}, "attack": {"name": "fgsm"}},
    {"engine": "simulated", "simulated": {"staleness": 2}},
    {"engine": "ddp", "ddp": {"ranks": 2}, "train": {"shards_per_step": 2}},
    {"engine": "ray", "workers": {"count": 1}},
]


@pytest.mark.parametrize("groups", ENGINES, ids=["sync", "free", "simulated", "ddp", "ray"])
def test_a_tiny_run_ends_with_an_evaluated_model(tmp_path: Path, shared_ray: Place, groups: dict[str, Any]) -> None:
    few = {**groups, "train": {**groups.get("train", {}), "max_steps": 4}, "data": {"limit": 256}}
    result = train(shared_ray(small(tmp_path, **few)), progress=False)
    summary = result.run.read_json("summary.json") or {}
    assert result.phase == "finished" and summary["steps"] == 4
    assert 0.0 <= summary["robust_accuracy"] <= summary["clean_accuracy"] <= 1.0
