"""A cluster of two nodes: `sparring.train` joins it, the trainer stays on one and the workers are put on the other."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from sparring.commands.train import train
from sparring.config import Config
from sparring.queue.server import EmbeddedServer
from tests.support.examples import ROOT
from tests.support.runs import small

pytestmark = pytest.mark.ray
PASSWORD = "SPARRING_TEST_QUEUE_PASSWORD"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    sizes = {"object_store_memory": 80 << 20, "include_dashboard": False}
    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "resources": {"trainers": 1}, **sizes})
    started.add_node(num_cpus=2, resources={"workers": 1}, object_store_memory=80 << 20)
    yield started
    started.shutdown()


def test_workers_serve_from_the_second_node_with_the_users_own_file_and_module(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a Redis that is reached by URL. The file is gone once the run begins, so that its text must have come."""
    file = tmp_path / "mine.py"
    shutil.copy(ROOT / "examples" / "mi_fgsm.py", file)
    here = tmp_path / "here"
    here.mkdir()
    shutil.copy(ROOT / "examples" / "allocator.py", here / "my_allocator.py")
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(here)
    methods = {"attack": {"name": f"{file}:MIFGSM"}, "allocator": {"name": "my_allocator:ByMargin"}}
    nodes: dict[str, set[str]] = {}

    def look(state: object, workers: object) -> None:
        if not nodes:
            nodes.update(_nodes_of_actors())

    with on_both(cluster, tmp_path, monkeypatch, **methods) as (config, password):
        result = train(config, show=look, on_run=lambda run: file.unlink())
    assert result.summary["worker_shards"] == result.summary["steps"] == 12
    assert set(result.summary["allocated"]) <= {"wrong", "near", "sure", "certain"}
    assert sum(result.summary["allocated"].values()) == 12 * 64
    assert nodes == {"Trainer": {"trainers"}, "SnapshotStore": {"trainers"}, "Worker": {"workers"}}
    assert password not in (result.run.path / "config.toml").read_text()
    assert json.loads((result.run.path / "state.json").read_text())["phase"] == "finished"


@contextmanager
def on_both(
    cluster: Cluster, root: Path, monkeypatch: pytest.MonkeyPatch, **groups: Any
) -> Iterator[tuple[Config, str]]:
    """A run whose trainer is on one node and whose workers are on the other, and the password of its queue."""
    with EmbeddedServer(maxmemory=256 << 20) as server:
        monkeypatch.setenv(PASSWORD, server.password)
        config = small(
            root,
            ray={"address": cluster.address},
            queue={"redis_url": server.url, "password_env": PASSWORD, "weights": "object_store"},
            trainer={"threads": 1, "resource": "trainers"},
            workers={"count": 2, "threads": 1, "num_cpus": 0.5, "resource": "workers"},
            staleness={"trainer_attacks": "never"},
            **groups,
        )
        yield config, server.password


def _nodes_of_actors() -> dict[str, set[str]]:
    """The custom resource of each node that holds actors of a class; empty until all of them are placed."""
    from ray._private.state import actors  # the public API asks the dashboard, which is not there

    marks = {
        node["NodeID"]: name for node in ray.nodes() for name in ("trainers", "workers") if name in node["Resources"]
    }
    alive = [actor for actor in actors().values() if actor["State"] == "ALIVE"]
    if len(alive) < 4:
        return {}
    found: dict[str, set[str]] = {}
    for actor in alive:
        found.setdefault(actor["ActorClassName"], set()).add(marks[actor["Address"]["NodeID"]])
    return found
