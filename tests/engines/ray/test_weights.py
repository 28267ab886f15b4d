"""A worker's weights: the newest that a ticket allows, never back within a fence, exactly one version in lockstep."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from sparring.engines.asynchronous.snapshot import Snapshot
from sparring.engines.ray.snapshots import QueueRoute
from sparring.engines.ray.weights import Weights
from sparring.errors import SparringError
from sparring.models.arrays import to_arrays, with_helper
from sparring.queue.messages import Controls
from sparring.queue.transport import Transport
from tests.support.queues import opened
from tests.support.waiting import wait_for


def linear(value: float) -> nn.Linear:
    model = nn.Linear(2, 2)
    nn.init.constant_(model.weight, value)
    return model


def never() -> bool:
    return False


@contextmanager
def weights(route: QueueRoute, lockstep: bool = False, helper: nn.Module | None = None) -> Iterator[Weights]:
    made = Weights(route, linear(-1.0), lockstep=lockstep, timeout_s=1.0, helper=helper)
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def publish(transport: Transport) -> Callable[..., QueueRoute]:
    route = QueueRoute(transport, keep=3)

    def published(*versions: int, helper: nn.Module | None = None) -> QueueRoute:
        for version in versions:
            arrays = to_arrays(linear(float(version)))
            arrays = arrays if helper is None else with_helper(arrays, helper)
            route.publish(Snapshot(transport.fence, version, Controls(0.1), arrays))
        return route

    return published


def held(found: Weights) -> float:
    weight = found.model.weight
    assert isinstance(weight, torch.Tensor)
    return float(weight[0, 0].detach())


def test_an_attack_begins_with_the_newest_and_takes_newer_ones_up(
    publish: Callable[..., QueueRoute], transport: Transport
) -> None:
    with weights(publish(0, 1)) as worker:
        assert worker.begin(transport.fence, 0, never) and worker.version == 1 and held(worker) == 1.0
        worker.swap()
        assert worker.swaps == 0, "there is nothing newer"
        publish(2)
        wait_for("the thread to have it", lambda: worker._newest is not None and worker._newest.version == 2, 10)
        worker.swap()
        assert worker.swaps == 1 and held(worker) == 2.0


def test_a_version_that_does_not_come_ends_the_wait_with_the_reason(
    publish: Callable[..., QueueRoute], transport: Transport
) -> None:
    with (
        weights(publish(0)) as worker,
        pytest.raises(SparringError, match="no snapshot of version 7 arrived within 1 s"),
    ):
        worker.begin(transport.fence, 7, never)


def test_a_wait_ends_once_it_has_lost_its_sense(publish: Callable[..., QueueRoute], transport: Transport) -> None:
    with weights(publish(0)) as worker:
        assert not worker.begin(transport.fence, 7, lambda: True)
    before = transport.fence
    opened(transport)
    with weights(publish(0)) as worker:
        assert not worker.begin(before, 7, never), "a later fence has taken over"


def test_weights_of_another_fence_are_not_swapped_in(publish: Callable[..., QueueRoute], transport: Transport) -> None:
    with weights(publish(1)) as worker:
        before = transport.fence
        assert worker.begin(before, 1, never)
        opened(transport)
        publish(2)
        wait_for("the thread to have it", lambda: worker._newest_fence > before, 10)
        worker.swap()
        assert worker.version == 1 and worker.swaps == 0


def test_lockstep_takes_the_version_that_the_ticket_names(
    publish: Callable[..., QueueRoute], transport: Transport
) -> None:
    before = threading.active_count()
    with weights(publish(0, 1, 2), lockstep=True) as worker:
        assert threading.active_count() == before, "nobody follows newer ones"
        assert worker.begin(transport.fence, 1, never) and held(worker) == 1.0


def test_a_helper_network_that_changes_is_loaded_with_the_weights(
    publish: Callable[..., QueueRoute], transport: Transport
) -> None:
    helper = linear(0.0)
    with weights(publish(1, helper=linear(5.0)), helper=helper) as worker:
        assert worker.begin(transport.fence, 1, never)
        assert held(worker) == 1.0 and torch.equal(helper.weight, torch.full((2, 2), 5.0))
