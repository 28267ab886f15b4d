"""The order of snapshots."""

from __future__ import annotations

from sparring.engines.asynchronous.snapshot import Snapshot
from sparring.queue.messages import Controls


def test_a_later_start_of_the_run_is_newer_whatever_its_versions() -> None:
    made = [Snapshot(fence, version, Controls(0.1), {}) for fence, version in ((2, 0), (1, 9), (2, 3), (1, 10))]
    assert [each.order for each in sorted(made, key=lambda each: each.order)] == [(1, 9), (1, 10), (2, 0), (2, 3)]
