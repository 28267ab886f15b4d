"""Queries name what is exported and nothing else, ask for one run, and mean what their names say."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from sparring.observe.dashboards import LEFT_OUT, RUNS
from sparring.observe.dashboards.queries import Query, mean, now, rate, ratio
from sparring.observe.metrics import METRICS
from tests.support.dashboards import assert_answers, named, panels, samples, with_promtool


def test_every_metric_that_a_query_names_is_exported() -> None:
    for panel, query in panels():
        assert named(query.expr) and named(query.expr) <= samples(), panel.title
    assert named(RUNS) <= samples()


def test_every_exported_metric_is_on_a_panel_or_left_out_for_a_reason() -> None:
    asked = named(RUNS).union(*(named(query.expr) for _, query in panels()))
    ends = re.compile(r"_(bucket|sum|count)$")
    names = {metric.name for metric in METRICS}
    shown = {name if name in names else ends.sub("", name) for name in asked}
    assert names - shown == set(LEFT_OUT)
    assert all(LEFT_OUT.values())


def test_every_query_asks_for_the_chosen_run_alone() -> None:
    for panel, query in panels():
        selectors = re.findall(r"sparring_\w+(\{[^}]*\})?", query.expr)
        assert selectors and set(selectors) == {'{run="$run"}'}, panel.title


@with_promtool
def test_every_query_parses(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": query.expr.replace("$__rate_interval", "1m")}
        for number, (_, query) in enumerate(panels())
    ]
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    reported = subprocess.run(["promtool", "check", "rules", path], capture_output=True, text=True, timeout=60)
    assert reported.returncode == 0 and f"{len(rules)} rules found" in reported.stdout, reported.stderr


SERIES = {
    'dropped_total{reason="stale"}': "0+10x30",
    'dropped_total{reason="failed"}': "0+30x30",
    "consumed_total": "0+80x30",
    "staleness_sum": "0+30x30",
    "staleness_count": "0+20x30",
}


@with_promtool
@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (now("consumed_total", ""), {'{run="r"}': 24 * 80}),
        (rate("dropped_total", ""), {"{}": 4.0}),
        (rate("dropped_total", "", by="reason"), {'{reason="stale"}': 1.0, '{reason="failed"}': 3.0}),
        (ratio("dropped_total", "consumed_total", ""), {"{}": 0.5}),
        (mean("staleness", ""), {"{}": 1.5}),
    ],
    ids=["now", "rate", "rate by reason", "ratio", "mean"],
)
def test_a_query_answers_what_its_name_says_of_the_chosen_run(
    asked: Query, expected: dict[str, float], tmp_path: Path
) -> None:
    assert_answers(asked, SERIES, expected, tmp_path)
