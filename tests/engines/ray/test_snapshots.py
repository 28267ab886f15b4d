"""Snapshots go through Redis and through Ray's object store alike; old ones are forgotten, newer ones waited for."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from sparring.engines.asynchronous.snapshot import Snapshot
from sparring.engines.ray.snapshots import Notice, QueueRoute, RayRoute, SnapshotStore, open_route
from sparring.queue.messages import Controls
from sparring.queue.transport import Transport
from tests.support.runs import Place, small


def snapshot(fence: int, version: int) -> Snapshot:
    return Snapshot(fence, version, Controls(0.1, 0.5), {"w": np.full((2, 3), version, dtype=np.float32)})


def notice(fence: int, version: int) -> Notice:
    return Notice(fence, version, Controls(0.1), [f"{fence}-{version}"])


def test_the_queue_keeps_the_last_snapshots_and_gives_the_newest(transport: Transport) -> None:
    route = QueueRoute(transport, keep=2)
    fence = transport.fence
    assert route.newer((0, -1), 0.01) is None
    copied: list[int] = []
    for version in (0, 1, 2):
        route.publish(snapshot(fence, version), lambda version=version: copied.append(version))  # type: ignore[misc]
    assert copied == [0, 1, 2]
    found = route.newer((fence, 0), 1.0)
    assert found is not None and found.order == (fence, 2) and found.controls == Controls(0.1, 0.5)
    assert found.arrays["w"].tolist() == [[2.0] * 3] * 2
    assert route.newer((fence, 2), 0.01) is None
    exact = route.exactly((fence, 1), 0.1)
    assert exact is not None and exact.version == 1


@pytest.mark.ray
def test_rays_object_store_does_the_same(shared_ray: Place, tmp_path: Path) -> None:
    import ray

    config = shared_ray(small(tmp_path, engine="ray"))
    with ray.init(address=config.ray.address, log_to_driver=False):
        store = ray.remote(SnapshotStore).options(num_cpus=0).remote(2)
        route = RayRoute(store)
        assert route.newer((0, -1), 0.1) is None
        for version in (0, 1, 2):
            route.publish(snapshot(3, version))
        found = route.exactly((3, 2), 10.0)
        assert found is not None and found.arrays["w"].tolist() == [[2.0] * 3] * 2
        assert route.exactly((3, 0), 0.1) is None, "two are kept"
        newest = route.newer((3, 0), 10.0)
        assert newest is not None and newest.order == (3, 2)
        ray.kill(store)
        assert route.newer((3, 2), 0.1) is None, "a store that is gone is asked again later"


def test_the_store_forgets_older_fences_and_keeps_the_order_of_versions() -> None:
    async def reported() -> list[tuple[int, int]]:
        store = SnapshotStore(keep=3)
        for fence, version in ((1, 0), (1, 1), (2, 5), (2, 4), (2, 5)):
            await store.publish(notice(fence, version))
        return [each.order for each in store.notices["weights"]]

    assert asyncio.run(reported()) == [(2, 4), (2, 5)]


def test_the_store_answers_as_soon_as_there_is_a_newer_one() -> None:
    async def reported() -> tuple[Notice | None, Notice | None, Notice | None]:
        store = SnapshotStore()
        early = asyncio.create_task(store.newer((1, 0), 10.0))
        await asyncio.sleep(0)
        await store.publish(notice(1, 1))
        return await early, await store.exactly((1, 1), 0.01), await store.exactly((1, 2), 0.01)

    newer, exact, never = asyncio.run(reported())
    assert newer is not None and newer.order == (1, 1) and exact is not None and never is None


def test_small_weights_go_through_the_queue(tmp_path: Path, transport: Transport) -> None:
    assert isinstance(open_route(small(tmp_path), 1 << 20, transport, "unused"), QueueRoute)
