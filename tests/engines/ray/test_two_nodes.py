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
from sparring.observe.state import RunState
from sparring.queue.server import EmbeddedServer
from tests.support.examples import ROOT
from tests.support.runs import small

pytestmark = pytest.mark.ray
OWN = """
import time

from torch import nn

from sparring.objectives import Objective, pgd_at


def stripes(split: str, count: int = 800):
    images = 0.5 * torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(len(split)))
    labels = torch.arange(count) % 3
    images[torch.arange(count), 0, labels] += 0.5
    return images, labels


class Rest(nn.Module):
    def forward(self, x):
        time.sleep(0.1)  # so that the run has not ended before its actors are looked at
        return x


def linear(shape, classes, bias: bool = True):
    return nn.Sequential(Rest(), nn.Flatten(), nn.Linear(math.prod(shape), classes, bias=bias))


def halved(times: int = 1):
    return lambda peak, progress: peak * 0.5**times


class Shifted(Objective):
    def __init__(self, by: float) -> None:
        self.by = by

    def loss(self, model, batch, helper):
        logits = model(batch.x_adv)
        return pgd_at(logits, batch.labels, weights=batch.weights) + self.by, logits
"""
PASSWORD = "SPARRING_TEST_QUEUE_PASSWORD"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_worker_niceness="0")  # with 15 a busy machine starves workers
    sizes = {"object_store_memory": 80 << 20, "include_dashboard": False}
    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "resources": {"trainers": 1}, **sizes})
    started.add_node(num_cpus=2, resources={"workers": 1}, object_store_memory=80 << 20)
    yield started
    started.shutdown()


def test_workers_serve_from_the_second_node_with_the_users_own_file_and_module(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a Redis that is reached by URL. The file is gone once the run begins, so that its text must have come; it
    has attack, objective, data, model and schedule."""
    file = tmp_path / "mine.py"
    file.write_text((ROOT / "examples" / "mi_fgsm.py").read_text() + OWN)
    here = tmp_path / "here"
    here.mkdir()
    shutil.copy(ROOT / "examples" / "allocator.py", here / "my_allocator.py")
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(here)
    methods = {
        "attack": {"name": f"{file}:MIFGSM"},
        "allocator": {"name": "my_allocator:ByMargin"},
        "objective": {"name": f"{file}:Shifted", "options": {"by": 1000.0}},
        "data": {"name": f"{file}:stripes"},
        "model": {"name": f"{file}:linear", "options": {"bias": False}},
        "schedule": {"name": f"{file}:halved", "options": {"times": 2}},
    }
    nodes: dict[str, set[str]] = {}

    def look(state: RunState, workers: object) -> None:
        if not nodes and state.phase == "training":
            nodes.update(_nodes_of_actors())

    with on_both(cluster, tmp_path, monkeypatch, **methods) as (config, password):
        result = train(config, show=look, on_run=lambda run: file.unlink())
    assert result.summary["worker_shards"] == result.summary["steps"] == 12
    assert set(result.summary["allocated"]) <= {"wrong", "near", "sure", "certain"}
    assert sum(result.summary["allocated"].values()) == 12 * 64
    assert nodes == {"Trainer": {"trainers"}, "SnapshotStore": {"trainers"}, "Worker": {"workers"}}
    assert password not in (result.run.path / "config.toml").read_text()
    state = json.loads((result.run.path / "state.json").read_text())
    assert state["phase"] == "finished" and state["loss"] > 1000
    assert state["learning_rate"] == config.optimizer.lr / 4
    assert [tuple(each.shape) for each in result.load_model().parameters()] == [(3, 64)], "from the recorded text"


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
