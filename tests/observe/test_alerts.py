"""The alert rules hold, name what is exported, and each leads to the section that says what to do."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector

from sparring.observe.exporter import family
from sparring.observe.metrics import METRICS
from tests.support.dashboards import named, samples, with_promtool
from tests.support.states import full_state, heartbeats

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def promtool(*words: str, reported: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["promtool", *words], cwd=PROMETHEUS, input=reported, capture_output=True, timeout=60)


@with_promtool
@pytest.mark.parametrize(
    "words",
    [("check", "config", "prometheus.yml"), ("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")],
)
def test_promtool_finds_nothing_wrong(words: tuple[str, ...]) -> None:
    found = promtool(*words)
    assert found.returncode == 0, (found.stdout + found.stderr).decode()


class _Full(Collector):
    def collect(self) -> Any:
        return [family(metric, metric.source(full_state(), heartbeats())) for metric in METRICS]


@with_promtool
def test_promtool_has_no_complaint_about_the_names_of_metrics() -> None:
    registry = CollectorRegistry()
    registry.register(_Full())
    found = promtool("check", "metrics", reported=generate_latest(registry))
    assert (found.returncode, found.stdout, found.stderr) == (0, b"", b"")


def test_every_rule_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    cases = [
        case
        for test in yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"]
        for case in test["alert_rule_test"]
    ]
    fires = {case["alertname"] for case in cases if case["exp_alerts"]}
    assert fires == {rule["alert"] for rule in rules()}
    for test in yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"]:
        runs = {found for each in test["input_series"] for found in re.findall(r'run="(\w+)"', each["series"])}
        fired = {
            alert["exp_labels"]["run"] for case in test["alert_rule_test"] for alert in case["exp_alerts"] if alert
        }
        assert runs - fired, f"{test['name']}: no run beside it is left alone"


def test_every_metric_that_a_rule_names_is_exported() -> None:
    for rule in rules():
        assert named(rule["expr"]) <= samples(), rule["alert"]


def test_every_rule_leads_to_a_section_that_there_is() -> None:
    for rule in rules():
        page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert anchor in anchors(ROOT / page), rule["alert"]


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings: in small letters, without punctuation, with hyphens for spaces."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
