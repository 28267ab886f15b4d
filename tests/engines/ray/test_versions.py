"""The snapshots that a worker's tickets name, through a real queue."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from sparring.engines.asynchronous.snapshot import Snapshot
from sparring.engines.ray.snapshots import QueueRoute
from sparring.engines.ray.versions import FetchedVersions
from sparring.models.arrays import to_arrays
from sparring.queue.messages import Controls
from sparring.queue.transport import Transport
from tests.support.waiting import wait_for


def linear(value: float) -> nn.Linear:
    model = nn.Linear(2, 2)
    nn.init.constant_(model.weight, value)
    return model


@pytest.fixture
def route(transport: Transport) -> QueueRoute:
    return QueueRoute(transport, keep=4)


@pytest.fixture
def versions(route: QueueRoute) -> Iterator[FetchedVersions]:
    made = FetchedVersions(route, linear(-1.0), keep=2)
    yield made
    made.stop()


def publish(route: QueueRoute, *numbers: int) -> None:
    for number in numbers:
        fence = route.transport.fence
        route.publish(Snapshot(fence, number, Controls(0.1 * number), to_arrays(linear(float(number)))))


def test_what_is_wanted_comes_an_older_one_too_and_what_nobody_wants_is_let_go(
    route: QueueRoute, versions: FetchedVersions
) -> None:
    fence = route.transport.fence
    publish(route, 3, 4)
    versions.want({(fence, 3), (fence, 5)})
    wait_for("version 3", lambda: versions.has((fence, 3)))
    assert not versions.has((fence, 5))
    assert versions.load((fence, 3)) == Controls(0.1 * 3) and versions.loaded == (fence, 3)
    weight = versions.model.weight
    assert isinstance(weight, torch.Tensor) and float(weight[0, 0].detach()) == 3.0
    publish(route, 5)
    wait_for("version 5", lambda: versions.has((fence, 5)))
    versions.want({(fence, 6)})
    publish(route, 6)
    wait_for("version 6", lambda: versions.has((fence, 6)))
    assert [versions.has((fence, number)) for number in (3, 4, 5)] == [False, False, True]


def test_waiting_ends_when_a_snapshot_comes(route: QueueRoute, versions: FetchedVersions) -> None:
    fence = route.transport.fence
    versions.want({(fence, 1)})
    publish(route, 1)

    def came() -> bool:
        versions.wait(0.05)
        return versions.has((fence, 1))

    wait_for("version 1", came)
