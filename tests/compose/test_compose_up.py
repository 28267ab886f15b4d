"""`docker compose up`, a run whose workers are scaled and killed, its stop, its resume and `docker compose down -v`.

Run it: make compose-test (with a Docker Engine; see docs/cluster.md).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparring.config import config_of
from sparring.runs import open_run
from sparring.trainer.experiment import build_experiment
from tests.chaos.audit import violations
from tests.support.composed import Composed, composed, missing
from tests.support.waiting import wait_for

pytestmark = [
    pytest.mark.compose,
    pytest.mark.timeout(3600),  # a build may download for half an hour
]

RUN = "/runs/composed"
EPOCHS = 30
SETTINGS = (
    f"--run.name composed --data.name digits --model.name digits-cnn --train.epochs {EPOCHS} --train.batch_size 64 "
    "--attack.steps 60 --attack.warmup_epochs 1 --staleness.trainer_attacks never --checkpoint.every_steps 20 "
    "--workers.threads 1 --trainer.threads 1 --evaluation.steps 2 --evaluation.restarts 1 --evaluation.samples 50"
)
LEAVE_S = 45.0  # workers, once the head has ended: 15 of waiting, and what Ray takes to end
LEAST_METRICS = 60
NOBODY = "65534"  # whom Prometheus' own image runs as


@pytest.fixture
def services(tmp_path: Path) -> Any:
    if (reason := missing()) is not None:
        pytest.fail(reason)  # who asks for this test wants to know
    with composed(tmp_path, SETTINGS) as found:
        yield found
    assert not found.left()


def test_a_run_outlives_its_containers_and_leaves_nothing(services: Composed, tmp_path: Path) -> None:
    services.build()
    services.up(2)
    _until(services, "two workers attack", lambda: len(_attacking(services)) == 2)

    services.up(4, "--no-recreate")
    services.shell(f"sparring workers {RUN} set 4")
    _until(services, "four workers attack", lambda: len(_attacking(services)) == 4)
    _check_metrics(services, workers=4)

    _kill_a_worker(services)

    services("stop", "head")
    wait_for("workers leave after the head", lambda: set(services.states("worker")) == {"exited"}, LEAVE_S, 1)
    wait_for("Prometheus asks nobody", lambda: not services.prometheus("targets")["activeTargets"], 30, 1)
    stopped = _audited(services, tmp_path / "stopped", finished=False)
    assert 0 < stopped["steps"] < EPOCHS * stopped["steps_per_epoch"]

    services.up(2, SPARRING_RESUME=RUN, SPARRING_SETTINGS="")
    wait_for("the end of the run", lambda: services.states("head") == ["exited"], 900, 1)
    assert services.exit_code("head") == 0
    ended = _audited(services, tmp_path / "ended", finished=True)
    assert ended["steps"] == ended["worker_shards"] == EPOCHS * ended["steps_per_epoch"]


def _until(services: Composed, what: str, condition: Callable[[], Any]) -> None:
    """Wait for it while the run goes on."""

    def look() -> Any:
        assert services.states("head") == ["running"], f"{what}: not before the run ended"
        return condition()

    wait_for(what, look, 180, 1)


def _attacking(services: Composed) -> dict[str, Any]:
    """The workers that serve and have sent shards, as `sparring workers` lists them; none while the run begins."""
    listing = f"sparring workers {RUN} --json || echo '{{\"workers\": {{}}}}'"
    listed = json.loads(services.shell(listing))["workers"]
    return {name: fields for name, fields in listed.items() if fields["state"] == "serving" and fields.get("shards")}


def _step(services: Composed) -> int:
    return int(json.loads(services.shell(f"sparring status {RUN} --json"))["step"])


def _check_metrics(services: Composed, workers: int) -> None:
    """Prometheus reads the run's and each of Ray's nodes', all that it is told to ask, and as its own user."""

    def value(query: str) -> float:
        found = services.prometheus("query", query=query)["result"]
        return float(found[0]["value"][1]) if found else 0.0

    nodes = workers + 1
    _until(services, "Ray's nodes", lambda: value("count(ray_node_cpu_count)") == nodes)
    _until(
        services, "the run's workers", lambda: value("count(rate(sparring_worker_shards_total[30s]) > 0)") == workers
    )
    assert value("sparring_workers_wanted") == workers and value("sparring_up") == 1
    assert value("count(up == 0)") == 0
    names = services.prometheus("label/__name__/values")
    assert sum(name.startswith("sparring_") for name in names) >= LEAST_METRICS
    files = "cat /var/lib/sparring/targets/*.json /tmp/ray/prom_metrics_service_discovery.json"
    assert "composed" in services.shell(files, "prometheus", "--user", NOBODY)
    if services.grafana:
        wait_for("Grafana", lambda: services.get("grafana", 3000, "api/health")["database"] == "ok", 60, 1)


def _kill_a_worker(services: Composed) -> None:
    """Its container is gone at once; the others go on, and so does the run."""
    before = _attacking(services)
    name, fields = next(iter(before.items()))
    services.kill(fields["node"])
    others = before.keys() - {name}
    step = _step(services)
    _until(services, "thirty steps more", lambda: _step(services) >= step + 30)
    after = _attacking(services)
    assert after.keys() == others
    assert all(after[other]["shards"] > before[other]["shards"] for other in others)


def _audited(services: Composed, folder: Path, *, finished: bool) -> dict[str, Any]:
    """The run's summary with `steps_per_epoch`, if nothing is lost or trained on twice."""
    folder.mkdir()
    run = open_run(services.copied(RUN, folder))
    config = config_of(run)
    plan = build_experiment(config).plan
    tickets = [[len(plan.indices(epoch, n)) for n in range(plan.shards(epoch))] for epoch in range(plan.epochs)]
    assert not violations(run.path, tickets, config.staleness.max_staleness, finished=finished)
    summary: dict[str, Any] = json.loads((run.path / "summary.json").read_text())
    return {**summary, "steps_per_epoch": len(tickets[0])}
