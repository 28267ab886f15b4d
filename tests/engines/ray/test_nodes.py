"""What the autoscaler is asked for names the node types that the actors will ask for."""

from __future__ import annotations

from pathlib import Path

from sparring.engines.ray.nodes import bundles
from tests.support.runs import small


def test_a_request_for_nodes_names_the_resources_that_the_actors_reserve(tmp_path: Path) -> None:
    config = small(
        tmp_path,
        trainer={"count": 2, "num_gpus": 1, "resource": "trainers"},
        workers={"count": 2, "num_gpus": 0.5, "resource": "workers"},
    )
    *trainers, first, second = bundles(config.trainer, config.workers)
    assert trainers == [{"CPU": 1, "GPU": 1, "trainers": 0.001}] * 2
    assert first == second == {"CPU": 1, "GPU": 0.5, "workers": 0.001}
