"""What the dashboards ask, what a scrape may hold, and what Prometheus answers to a query about made-up series."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from sparring.observe.dashboards import DASHBOARDS
from sparring.observe.dashboards.queries import Dashboard, Panel, Query
from sparring.observe.metrics import METRICS

with_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool (Debian's prometheus) is not installed"
)


def panels() -> Iterator[tuple[Panel, Query]]:
    for dashboard in DASHBOARDS:
        for panel in dashboard.panels:
            for query in panel.queries:
                yield panel, query


def samples() -> set[str]:
    """Every name that a scrape may hold: of a histogram there are three."""
    ends = {"histogram": ("_bucket", "_sum", "_count")}
    return {metric.name + end for metric in METRICS for end in ends.get(metric.type, ("",))}


def named(text: str) -> set[str]:
    return set(re.findall(r"sparring_\w+", text))


def query(dashboard: Dashboard, panel: str, legend: str) -> Query:
    """The one query of the panel with that legend."""
    (found,) = (each for one in dashboard.panels if one.title == panel for each in one.queries if each.legend == legend)
    return found


def assert_answers(asked: Query, series: Mapping[str, str], expected: Mapping[str, float], folder: Path) -> None:
    """Let promtool answer for the run r, four minutes after the beginning, to a thousandth.

    Args:
        series: by name and labels without the run, a value every 10 seconds, as promtool writes them. Those of another
            run stand beside them.
        expected: value by labels, such as '{worker="w0"}'.
    """
    expression = asked.expr.replace("$run", "r").replace("$__rate_interval", "1m")
    samples = [{"labels": labels, "value": round(1000 * value)} for labels, value in expected.items()]
    test = {
        "interval": "10s",
        "input_series": [
            *_of_run("r", series),
            *_of_run("other", {name: f"10{each}" for name, each in series.items()}),
        ],
        "promql_expr_test": [{"expr": f"round(1000 * ({expression}))", "eval_time": "4m", "exp_samples": samples}],
    }
    path = folder / "test.yml"
    path.write_text(json.dumps({"evaluation_interval": "10s", "tests": [test]}))
    reported = subprocess.run(["promtool", "test", "rules", path], capture_output=True, text=True, timeout=60)
    assert reported.returncode == 0, reported.stderr + reported.stdout


def _of_run(run: str, series: Mapping[str, str]) -> list[dict[str, Any]]:
    return [
        {"series": re.sub(r"(\{|$)", f'{{run="{run}",', name, count=1).rstrip("}") + "}", "values": values}
        for name, values in series.items()
    ]
