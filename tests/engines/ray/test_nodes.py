"""What the autoscaler is asked for names the node types that the actors will ask for."""

from __future__ import annotations

from pathlib import Path

from sparring.engines.ray.nodes import bundles
from tests.support.runs import small


def test_a_request_for_nodes_names_the_resources_that_the_actors_reserve(tmp_path: Path) -> None:
    config = small(
        tmp_path,
        trainer={"num_gpus": 1, "resource": "trainers"},
        workers={"count": 2, "num_gpus": 0.5, "resource": "workers"},
    )
    trainer, *workers = bundles(config.trainer, config.workers)
    assert trainer == {"CPU": 1, "GPU": 1, "trainers": 0.001}
    assert workers == [{"CPU": 1, "GPU": 0.5, "workers": 0.001}] * 2
