"""The commands of docker-compose.yml as plain processes: Redis and head on one host, a worker on another.

The hosts are namespaces whose names resolve as compose resolves its services'. No image is built here.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.hosts import HEAD, HOME, ROOT, WORKER, Hosts
from tests.support.waiting import wait_for

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(900),
]
PASSWORD = "a-password-that-nobody-lists"
STEPS = 20
VOLUMES = ("/runs", "/data", "/var/lib/sparring/targets")
SETTINGS = (
    f"--run.name composed --train.max_steps {STEPS} --attack.steps 3 --staleness.trainer_attacks never "
    "--workers.threads 1 --trainer.threads 1 --evaluation.steps 2 --evaluation.restarts 1 --evaluation.samples 50"
)
PATH = f"PATH={HOME}/sparring/venv/bin:$PATH"  # as the image has it
TOKEN = "a-token-that-nobody-lists"
ENVIRONMENT = {"SPARRING_RECIPE": "", "SPARRING_RESUME": "", "SPARRING_WORKERS": "1", "SPARRING_SETTINGS": SETTINGS}


def start(two_hosts: Hosts, address: str, service: dict[str, Any]) -> None:
    """What compose would run, detached, its output in a file named by the first word that says what it is."""
    command = [word.replace("$$", "$") for word in service["command"]]
    for volume in VOLUMES:  # at the root of a file system that is also the tests' own
        command = [word.replace(f" {volume} ", f" {HOME}{volume} ") for word in command]
    words = " ".join(f"{name}={shlex.quote(value)}" for name, value in environment_of(service).items())
    quoted = shlex.join(command)
    two_hosts.on(
        address, f"bash -c {shlex.quote(f'{PATH} {words} setsid nohup {quoted} >>~/composed.log 2>&1 </dev/null &')}"
    )


def environment_of(service: dict[str, Any]) -> dict[str, str]:
    """The service's own, with what the tests ask of the run in its place."""
    return {**service.get("environment", {}), **ENVIRONMENT}


def healthy(two_hosts: Hosts, address: str, service: dict[str, Any]) -> bool:
    kind, *test = service["healthcheck"]["test"]
    command = test[0].replace("$$", "$") if kind == "CMD-SHELL" else shlex.join(test)
    token = " ".join(f"{name}={value}" for name, value in environment_of(service).items() if name.startswith("RAY_"))
    reported = two_hosts.on(
        address, f"bash -c {shlex.quote(f'export {PATH} {token}; {command}')} >/dev/null 2>&1; echo $?"
    )
    return reported.strip().splitlines()[-1] == "0"


def test_the_services_commands_train_together(two_hosts: Hosts) -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    two_hosts.on(HEAD, f"echo {PASSWORD} >/run/secrets/redis_password")
    for address in (HEAD, WORKER):
        two_hosts.on(address, f"echo {TOKEN} >/run/secrets/ray_token")

    start(two_hosts, HEAD, services["redis"])
    wait_for("a healthy redis", lambda: healthy(two_hosts, HEAD, services["redis"]), 30, 1)
    start(two_hosts, HEAD, services["head"])
    wait_for("a healthy head", lambda: healthy(two_hosts, HEAD, services["head"]), 120, 1)
    start(two_hosts, WORKER, services["worker"])
    wait_for("the end of the run", lambda: _phase(two_hosts) in ("finished", "failed"), 180, 1)

    summary: dict[str, Any] = json.loads(two_hosts.on(HEAD, "cat ~/runs/composed/summary.json"))
    assert (summary["steps"], summary["worker_shards"]) == (STEPS, STEPS), _log(two_hosts)
    assert PASSWORD not in two_hosts.on(HEAD, "ps -ww -eo args") + two_hosts.on(HEAD, "cat ~/runs/composed/config.toml")
    assert PASSWORD not in _log(two_hosts)
    assert TOKEN not in two_hosts.on(HEAD, "ps -ww -eo args") + _log(two_hosts)


def _phase(two_hosts: Hosts) -> str:
    state = two_hosts.on(HEAD, "cat ~/runs/composed/state.json 2>/dev/null || echo '{}'")
    return str(json.loads(state).get("phase"))


def _log(two_hosts: Hosts) -> str:
    return Path(two_hosts.home("head") / "composed.log").read_text()
