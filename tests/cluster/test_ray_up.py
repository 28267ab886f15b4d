"""`ray up deploy/ray/local.yaml` on two hosts with addresses and sshd of their own, a run across them, `ray down`.

Run it: make cluster-test (as root, on Linux; about two minutes).
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.hosts import HEAD, HOME, WORKER, Hosts
from tests.support.ray_up import CLUSTER, nodes, on_operator, render
from tests.support.waiting import wait_for

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(600),
]

STEPS = 40
TRAIN = (
    f"ray job submit -- sparring train --run.root {HOME}/runs --run.name across --ray.address auto "
    r"--queue.redis_url '\$SPARRING_REDIS_URL' --queue.password_file ~/.sparring/redis-password "
    "--trainer.resource sparring_head --workers.resource sparring_worker --workers 1 "
    "--staleness.trainer_attacks never --workers.threads 1 --trainer.threads 1 "
    f"--train.max_steps {STEPS} --attack.steps 3 --attack.warmup_epochs 0.5 "
    "--evaluation.steps 2 --evaluation.restarts 1 --evaluation.samples 50 --metrics.bind 0.0.0.0 --json"
)
OF_RAY_OR_REDIS = ("raylet", "gcs_server", "ray::", "valkey-server", "redis-server", "sparring", "monitor.py")


def test_a_cluster_comes_up_trains_across_both_hosts_and_goes_down_without_a_trace(two_hosts: Hosts) -> None:
    render(two_hosts)
    on_operator(two_hosts, f"ray up --yes --no-config-cache {CLUSTER}")
    try:
        wait_for("the worker's host joins", lambda: nodes(two_hosts) == {HEAD, WORKER}, 120, 1)
        on_operator(two_hosts, f'ray exec {CLUSTER} "{TRAIN}"', timeout_s=240)
        _check_run(two_hosts)
        _check_secrecy(two_hosts)
        _check_token(two_hosts)
    finally:
        reported = on_operator(two_hosts, f"ray down --yes {CLUSTER}")
    assert "No nodes remaining" in reported
    for address in (HEAD, WORKER):
        _until_gone(two_hosts, address)


def _check_run(two_hosts: Hosts) -> None:
    runs = {name: two_hosts.home(name) / "runs" / "across" for name in ("head", "worker")}
    summary: dict[str, Any] = json.loads((runs["head"] / "summary.json").read_text())
    assert summary["steps"] == STEPS
    assert summary["worker_shards"] == STEPS
    assert summary["staleness_max"] <= summary["max_staleness"]
    logs = {name: {log.name for log in (path / "logs").iterdir()} for name, path in runs.items()}
    assert logs == {"head": {"trainer.log"}, "worker": {"worker-0.log"}}


def _check_secrecy(two_hosts: Hosts) -> None:
    """The password is with the head's Redis and in its file: in no process list, no run, no log of Ray."""
    password = (two_hosts.home("head") / ".sparring" / "redis-password").read_text()
    assert len(password) > 30
    for address in (HEAD, WORKER):
        assert password not in two_hosts.on(address, "ps -ww -eo args")
        found = two_hosts.on(address, f"grep -rlsF -e {password} /tmp/ray ~/runs ~/*.yaml || true")
        assert not found.strip(), found


def _check_token(two_hosts: Hosts) -> None:
    """Whoever has not the token of the machine that `ray up` was typed on gets nothing from the cluster."""
    ask = "ray health-check --address 127.0.0.1:6379"
    ends = "2>/dev/null >/dev/null; echo $?"
    token = (two_hosts.home("operator") / ".ray" / "auth_token").read_text()
    for address in (HEAD, WORKER):
        kept = two_hosts.on(address, "stat -c %a ~/.ray/auth_token; cat ~/.ray/auth_token").split()
        assert kept == ["600", token]
    known, unknown = (
        two_hosts.on(HEAD, f"bash -ic 'RAY_AUTH_TOKEN={each} {ask} {ends}' 2>/dev/null").split()[-1]
        for each in (token, "0" * 64)
    )
    assert (known, unknown == "0") == ("0", False)


def _until_gone(two_hosts: Hosts, address: str) -> None:
    wait_for(f"no part of the cluster on {address}", lambda: not _left(two_hosts, address), 180, 1)


def _left(two_hosts: Hosts, address: str) -> list[str]:
    lines = two_hosts.on(address, "ps -ww -eo args").splitlines()
    return [line for line in lines if any(word in line for word in OF_RAY_OR_REDIS)]
