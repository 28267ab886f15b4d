"""The asynchronous engine against its references, with real Ray actors and a real queue."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from sparring.commands.train import train
from sparring.engines.asynchronous.snapshot import Route, Snapshot
from sparring.engines.ray.driver import restarts_before
from sparring.engines.ray.snapshots import Notice, QueueRoute, RayRoute, SnapshotStore
from sparring.errors import UsageError
from sparring.models.arrays import Arrays
from sparring.queue.connection import connect
from sparring.queue.messages import Controls
from sparring.queue.transport import Transport
from sparring.runs import Run
from tests.support.queues import opened
from tests.support.runs import Place, small, weights_of

pytestmark = pytest.mark.ray

TWO = {"workers": {"count": 2}}
AUGMENTED = {"name": "digits", "augment": "crop"}
AUGMIX = {
    "attack": {"name": "augmix"},
    "objective": {"name": "augmix"},
    "allocator": {"name": "bullettrain", "robust_steps": 0},
}


@pytest.mark.parametrize(
    ("route", "methods"),
    [
        (
            "redis",
            {"allocator": {"name": "bullettrain"}, "objective": {"name": "trades", "passes": "single_pass"}, **TWO},
        ),
        ("object_store", {"allocator": {"name": "bullettrain"}, "objective": {"name": "mart"}, **TWO}),
        (
            "redis",
            {
                "train": {"epochs": 2, "max_steps": 10, "batch_size": 250},
                "pruning": {"name": "high", "epoch": 1},
                "attack": {"start": "last"},
                "data": {"augment": "none"},
                "model": {"name": "mnist-16-32-100", "precision": "bf16", "channels_last": True},
            },
        ),
        ("redis", AUGMIX),
        ("redis", {"attack": {"name": "fgsm"}, "objective": {"name": "grad-align"}}),
    ],
)
def test_with_bound_0_and_the_exact_wire_the_weights_are_those_of_the_synchronous_engine(
    tmp_path: Path, route: str, methods: dict[str, Any], shared_ray: Place
) -> None:
    exact = {"max_staleness": 0, "depth": 0, "publish_every": 1}
    common = {"data": AUGMENTED, "staleness": exact, "queue": {"wire": "exact", "weights": route}, **methods}
    sync = train(small(tmp_path, engine="sync", **common))
    ray = train(shared_ray(small(tmp_path, engine="ray", **common)))
    assert weights_of(sync) == weights_of(ray)
    assert ray.summary["staleness_max"] == 0
    assert ray.summary["worker_shards"] == ray.summary["steps"] == sync.summary["steps"]
    assert ray.summary["kept"] == sync.summary["kept"]


def test_in_lockstep_weights_and_staleness_are_those_of_the_simulated_engine(tmp_path: Path, shared_ray: Place) -> None:
    steps = {"shards_per_step": 2, "batch_size": 32, "max_steps": 14}
    lockstep = {"max_staleness": 3, "depth": 3, "publish_every": 1, "lockstep": True}
    simulated = train(small(tmp_path, engine="simulated", train=steps, simulated={"staleness": 3}))
    ray = train(shared_ray(small(tmp_path, train=steps, staleness=lockstep, queue={"wire": "exact"}, **TWO)))
    assert _histogram(ray.run.path) == _histogram(simulated.run.path)
    assert _histogram(ray.run.path)["3"] == 11 * 2
    assert weights_of(simulated) == weights_of(ray)


def test_a_whole_run_uses_every_example_once_an_epoch_and_stays_within_its_bound(
    tmp_path: Path, shared_ray: Place
) -> None:
    config = small(
        tmp_path,
        train={"epochs": 3, "max_steps": None, "batch_size": 50, "shards_per_step": 4},
        staleness={"max_staleness": 4, "publish_every": 2},
        **TWO,
    )
    result = train(shared_ray(config))
    summary = result.summary
    assert result.phase == "finished"
    assert summary["examples"] == 3 * 1437
    assert summary["steps"] == 3 * 8
    assert summary["staleness_max"] <= 4
    assert summary["shards_set_aside"] == 0
    assert 0 <= summary["robust_accuracy"] <= summary["clean_accuracy"] <= 1


def test_slots_use_every_example_once_an_epoch_and_stay_within_the_bound(tmp_path: Path, shared_ray: Place) -> None:
    config = small(
        tmp_path,
        allocator={"name": "bullettrain", "slots": 40},
        train={"epochs": 2, "max_steps": None, "batch_size": 50},
        staleness={"max_staleness": 4},
        **TWO,
    )
    result = train(shared_ray(config))
    summary = result.summary
    assert result.phase == "finished"
    assert summary["examples"] == 2 * 1437 == sum(summary["allocated"].values())
    assert summary["worker_shards"] == 2 * 29
    assert summary["staleness_max"] <= 4 and summary["shards_set_aside"] == 0
    assert summary["theoretical_speedup"] > 1 and summary["wallclock_speedup"] > 0


def test_the_trainer_attacks_itself_where_it_is_told_to(tmp_path: Path, shared_ray: Place) -> None:
    result = train(shared_ray(small(tmp_path, workers={"count": 0}, staleness={"trainer_attacks": "always"})))
    assert result.summary["trainer_shards"] == 12
    assert result.summary["staleness_max"] <= 1


def test_refresh_adds_fresh_attack_steps_by_the_trainer(tmp_path: Path, shared_ray: Place) -> None:
    result = train(shared_ray(small(tmp_path, staleness={"refresh": 2})))
    assert result.summary["refresh_steps"] == 2 * 12
    assert result.summary["gradients"] == 12 * 64 * (3 + 2)


@pytest.mark.parametrize(
    "staleness", [{"trainer_attacks": "never"}, {"trainer_attacks": "always", "lockstep": True, "max_staleness": 2}]
)
def test_a_run_in_which_nobody_would_attack_is_refused(tmp_path: Path, staleness: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"workers\.count = 0 .* nobody would attack"):
        train(small(tmp_path, workers={"count": 0}, staleness=staleness))
    assert not list(tmp_path.iterdir())


def test_a_configuration_that_would_deadlock_is_refused_with_the_inequality(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"max_staleness >= publish_every - 1 fails \(2 < 3\)"):
        train(small(tmp_path, staleness={"max_staleness": 2, "publish_every": 4}))
    assert not (tmp_path / "runs").exists()


@contextmanager
def route_of(kind: str, root: Path, shared_ray: Place) -> Iterator[Route]:
    config = shared_ray(small(root))
    if kind == "redis":
        client = connect(str(config.queue.redis_url), os.environ[str(config.queue.password_env)], 10.0)
        transport = Transport(client, "snapshots", lease_s=5.0, timeout_s=5.0)
        opened(transport)
        yield QueueRoute(transport, 2)
        transport.forget()
        return
    ray.init(address=config.ray.address, log_to_driver=False)
    try:
        yield RayRoute(ray.remote(SnapshotStore).options(num_cpus=0).remote())
    finally:
        ray.shutdown()


@pytest.mark.parametrize("kind", ["redis", "object_store"])
def test_weights_that_change_as_soon_as_they_may_reach_nobody(kind: str, tmp_path: Path, shared_ray: Place) -> None:
    arrays: Arrays = {"large": np.zeros(300_000, np.float32), "small": np.zeros(3, np.float32)}

    def change() -> None:
        for array in arrays.values():
            array.fill(7)

    with route_of(kind, tmp_path, shared_ray) as route:
        route.publish(Snapshot(1, 1, Controls(0.1), arrays), change)
        found = route.newer((1, 0), 10.0)
        assert found is not None and found.order == (1, 1)
        assert arrays["large"].all() and not any(array.any() for array in found.arrays.values())


async def _published(store: SnapshotStore, *orders: tuple[int, int]) -> None:
    for fence, version in orders:
        await store.publish(Notice(fence, version, Controls(0.0), []))


def test_the_store_hands_out_the_newest_snapshot_of_the_newest_fence() -> None:
    import asyncio

    async def scenario() -> None:
        store = SnapshotStore(keep=2)
        await _published(store, (1, 7), (1, 8), (1, 9))
        assert [notice.order for notice in store.notices["weights"]] == [(1, 8), (1, 9)]
        await _published(store, (2, 3))
        newest = await store.newer((1, 9), 1.0)
        assert newest is not None
        assert newest.order == (2, 3)
        assert await store.newer((2, 3), 0.01) is None
        assert await store.exactly((1, 9), 0.01) is None

    asyncio.run(scenario())


def _histogram(path: Path) -> dict[str, int]:
    state: dict[str, dict[str, int]] = json.loads((path / "state.json").read_text())
    return state["staleness"]


@pytest.mark.parametrize(("content", "restarts"), [('{"trainer_restarts": 3}', 3), ("{}", 0), ("5", 0), ('{"tr', 0)])
def test_restarts_of_earlier_lives_count_on(tmp_path: Path, content: str, restarts: int) -> None:
    (tmp_path / "state.json").write_text(content)
    assert restarts_before(Run(tmp_path)) == restarts
