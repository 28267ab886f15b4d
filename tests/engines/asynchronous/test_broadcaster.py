"""A snapshot is copied before the weights change, and one that does not get through ends the run with the reason."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest
import torch

from sparring.config import new_run
from sparring.engines.asynchronous.broadcaster import Broadcaster
from sparring.engines.asynchronous.snapshot import Snapshot
from sparring.errors import SparringError
from sparring.models.arrays import size_bytes
from sparring.queue.transport import QueueLost
from sparring.trainer.experiment import build_experiment
from sparring.trainer.session import Session
from tests.support.runs import small


class Route:
    """Keeps what it is given, once `go` is set; raises `error`."""

    def __init__(self) -> None:
        self.go, self.sent = Event(), list[tuple[int, int]]()
        self.error: Exception | None = None

    def publish(self, snapshot: Snapshot, copied: Callable[[], None] = lambda: None) -> None:
        self.go.wait(10)
        if self.error is not None:
            raise self.error
        copied()
        self.sent.append(snapshot.order)

    def newer(self, order: tuple[int, int], timeout_s: float) -> Snapshot | None:
        raise NotImplementedError

    exactly = newer


def session_in(root: Path, timeout_s: float = 10.0) -> Session:
    config = small(root, trainer={"wait_timeout_s": timeout_s})
    return Session(build_experiment(config), new_run(config), torch.device("cpu"))


def test_the_learner_waits_until_its_weights_are_copied(tmp_path: Path) -> None:
    session, route = session_in(tmp_path), Route()
    broadcaster = Broadcaster(session, route)
    broadcaster.start(fence=3)
    assert broadcaster.published == 0 and route.sent == []
    broadcaster.settle(wait=False)
    assert session.state.publish_bytes == 0, "it goes on"
    route.go.set()
    session.learner.before_change()
    broadcaster.settle()
    assert route.sent == [(3, 0)]
    assert session.state.publish_bytes == size_bytes(session.learner.model) and session.state.publications == 1
    broadcaster.close()


@pytest.mark.parametrize("step", ["until_copied", "settle"])
def test_a_broadcast_that_takes_too_long_ends_the_run_and_is_not_waited_for_again(tmp_path: Path, step: str) -> None:
    session, route = session_in(tmp_path, timeout_s=0.2), Route()
    broadcaster = Broadcaster(session, route)
    broadcaster.start(fence=1)
    with pytest.raises(SparringError, match=r"longer than trainer\.wait_timeout_s = 0\.2 s"):
        getattr(broadcaster, step)()
    began = time.monotonic()
    broadcaster.close()
    assert time.monotonic() - began < 0.2
    route.go.set()


def test_a_failed_broadcast_is_raised_but_a_lost_queue_is_left_to_the_loop(tmp_path: Path) -> None:
    session, route = session_in(tmp_path), Route()
    route.go.set()
    broadcaster = Broadcaster(session, route)
    route.error = QueueLost("restarted empty")
    broadcaster.start(fence=1)
    broadcaster.settle()
    route.error = SparringError("the object store is full")
    broadcaster.start(fence=2)
    session.learner.before_change()
    with pytest.raises(SparringError, match="the object store is full"):
        broadcaster.start(fence=2)
    broadcaster.close()
