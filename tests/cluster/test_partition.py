"""The network between two hosts fails and comes back, in the middle of a run across them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sparring.config import from_tree
from sparring.trainer.experiment import build_experiment
from tests.chaos.audit import lines_of, violations
from tests.support.hosts import HEAD, HOME, WORKER, Hosts
from tests.support.ray_up import CLUSTER, nodes, on_operator, render
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

RECIPE: dict[str, Any] = {
    "train": {"epochs": 200, "batch_size": 64},
    "attack": {"steps": 40, "warmup_epochs": 0.5},
    "staleness": {"trainer_attacks": "always", "max_staleness": 4},
}
TRAIN = (
    f"ray job submit --no-wait -- sparring train --run.root {HOME}/runs --run.name parted --ray.address auto "
    r"--queue.redis_url '\$SPARRING_REDIS_URL' --queue.password_file ~/.sparring/redis-password --queue.lease_s 5 "
    "--trainer.resource sparring_head --workers.resource sparring_worker --workers 1 "
    + " ".join(f"--{group}.{name} {value}" for group, values in RECIPE.items() for name, value in values.items())
)
WHILE_PARTED, SHORT_S, LONG_S = 3, 15.0, 90.0  # steps that the trainer's own attacks make; seconds


def test_a_run_goes_on_without_the_lost_host_and_with_it_when_it_is_back(two_hosts: Hosts) -> None:
    render(two_hosts)
    on_operator(two_hosts, f"ray up --yes --no-config-cache {CLUSTER}")
    run = two_hosts.home("head") / "runs" / "parted"
    try:
        wait_for("the worker's host joins", lambda: nodes(two_hosts) == {HEAD, WORKER}, 120, 1)
        on_operator(two_hosts, f'ray exec {CLUSTER} "{TRAIN}"', timeout_s=240)
        wait_for("a shard of the worker", lambda: _of_worker(run, 0), 120, 1)
        with _parted(two_hosts):
            at = _steps(run)
            wait_for("steps without the worker", lambda: _steps(run) >= at + WHILE_PARTED, 60, 1)
            wait_for("the short partition", _after(SHORT_S), SHORT_S + 5, 1)
        back = _steps(run)
        wait_for("the worker is back", lambda: _of_worker(run, back), 60, 1)
        with _parted(two_hosts):
            wait_for("the long partition", _after(LONG_S), LONG_S + 5, 1)
            at = _steps(run)
            wait_for("steps without the worker", lambda: _steps(run) >= at + WHILE_PARTED, 60, 1)
        on_operator(two_hosts, f'ray exec {CLUSTER} "sparring stop {HOME}/runs/parted"')
    finally:
        on_operator(two_hosts, f"ray down --yes {CLUSTER}")
    assert violations(run, _tickets(), RECIPE["staleness"]["max_staleness"], finished=False) == []


@contextmanager
def _parted(two_hosts: Hosts) -> Iterator[None]:
    """No packet passes between the worker's host and the others."""
    two_hosts.run("ip", "link", "set", "to-worker", "down")
    try:
        yield
    finally:
        two_hosts.run("ip", "link", "set", "to-worker", "up")


def _after(seconds: float) -> Callable[[], bool]:
    """True once so many seconds are over."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def _steps(run: Path) -> int:
    return max((line["step"] for line in lines_of(run / "steps.jsonl")), default=0)


def _of_worker(run: Path, after: int) -> bool:
    """Whether a step after `after` has trained on a shard of the worker."""
    lines = (line for line in lines_of(run / "steps.jsonl") if line["step"] > after)
    return any(name.startswith("worker") for line in lines for name in line["workers"])


def _tickets() -> list[list[int]]:
    plan = build_experiment(from_tree(RECIPE)).plan
    return [[len(plan.indices(epoch, n)) for n in range(plan.shards(epoch))] for epoch in range(plan.epochs)]
