"""A real Prometheus finds, scrapes and forgets a real run, and every panel has something to show of it."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from benchmarks.dashboards import filled_in, start_run
from benchmarks.prometheus import Prometheus
from sparring.observe.dashboards import DASHBOARDS
from sparring.observe.dashboards.queries import Query
from sparring.observe.dashboards.workers import GPU
from tests.support.waiting import wait_for

pytestmark = [
    pytest.mark.xdist_group("prometheus"),
    pytest.mark.timeout(400),  # a cluster, a whole run and its judgement, in the fixture
    pytest.mark.ray,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="Debian's prometheus is not installed"),
]
NAME = "watched"
WAIT_S = 150.0
# Scraped twenty times and more; everything that a panel shows is measured.
SHORT = {
    "train.epochs": "4",
    "staleness.gap_every": "10",
    "guard.overfitting_every": "10",
    "checkpoint.every_steps": "20",
    "evaluation.rolling": "true",
    "evaluation.rolling_samples": "64",
    "evaluation.rolling_attacks": '["apgd-ce"]',
    "evaluation.rolling_share": "0.2",
}


@dataclass
class Watched:
    """What was seen of a run that has ended, and the Prometheus that goes on."""

    prometheus: Prometheus
    began: float
    ended: float
    while_it_ran: dict[str, Any] = field(default_factory=dict)


def targets(prometheus: Prometheus) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = prometheus.ask("targets", state="active")["activeTargets"]
    return [target for target in found if target["labels"]["job"] == "sparring"]


def ended(process: subprocess.Popen[bytes], log: Path) -> bool:
    code = process.poll()
    assert code in (None, 0), log.read_text()
    return code == 0


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    root = tmp_path_factory.mktemp("watched")
    with Prometheus(root / "prometheus") as prometheus:
        began = time.time()
        process = start_run(root, NAME, prometheus.targets, SHORT)
        try:
            log = root / f"{NAME}.log"
            healthy = wait_for(
                "a healthy target",
                lambda: ended(process, log) or [each for each in targets(prometheus) if each["health"] == "up"],
            )
            seen = {"targets": healthy, "named": [path.name for path in prometheus.targets.iterdir()]}
            seen["top"] = subprocess.run(
                [sys.executable, "-m", "sparring", "top", str(root / NAME)],
                capture_output=True,
                text=True,
                timeout=WAIT_S,
            )
            wait_for("the end of the run", lambda: ended(process, log), WAIT_S)
            yield Watched(prometheus, began, time.time(), seen)
        finally:
            process.kill()
            process.wait()


def test_prometheus_finds_the_run_by_itself_with_its_name(watched: Watched) -> None:
    (target,) = watched.while_it_ran["targets"]
    assert target["labels"]["run"] == NAME
    assert len(watched.while_it_ran["named"]) == 1


def test_it_is_forgotten_when_it_has_ended(watched: Watched) -> None:
    assert list(watched.prometheus.targets.iterdir()) == []
    wait_for("no target any more", lambda: not targets(watched.prometheus), WAIT_S)


@pytest.mark.parametrize(
    "query",
    [
        pytest.param(query, id=f"{dashboard.uid}: {panel.title}: {query.legend}")
        for dashboard in DASHBOARDS
        for panel in dashboard.panels
        for query in panel.queries
        if panel.absent != GPU
    ],
)
def test_every_query_of_every_panel_returns_data(watched: Watched, query: Query) -> None:
    series = watched.prometheus.over(filled_in(query, NAME), watched.began, watched.ended)
    values = [float(value) for each in series for _, value in each["values"]]
    assert any(math.isfinite(value) for value in values), filled_in(query, NAME)


def test_the_run_can_be_chosen_by_its_name(watched: Watched) -> None:
    match = {"match[]": "sparring_up", "start": watched.began, "end": watched.ended}
    assert watched.prometheus.ask("label/run/values", **match) == [NAME]


def test_the_alert_rules_are_evaluated_without_an_error(watched: Watched) -> None:
    (group,) = watched.prometheus.ask("rules")["groups"]
    assert {(rule["health"], rule.get("lastError", "")) for rule in group["rules"]} == {("ok", "")}


def test_top_follows_the_run_through_its_queue_to_its_end(watched: Watched) -> None:
    followed = watched.while_it_ran["top"]
    lines = followed.stdout.splitlines()
    assert (followed.returncode, followed.stderr) == (0, "")
    assert lines[-1].startswith(f"{NAME}: finished | step ") and all(line.startswith(f"{NAME}: ") for line in lines)


def test_nothing_of_a_healthy_run_is_alarming(watched: Watched) -> None:
    assert watched.prometheus.over('ALERTS{alertstate="firing"}', watched.began, watched.ended) == []
