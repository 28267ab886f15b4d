"""The dashboards name what is exported and nothing else, and the files are what the code writes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard as GrafanaDashboard

from sparring.observe.dashboards import DASHBOARDS, LEFT_OUT, RUNS
from sparring.observe.dashboards.grafana import SOURCE, dashboard_json, file_name
from sparring.observe.dashboards.queries import Dashboard, Panel, Query
from sparring.observe.metrics import METRICS

GRAFANA = Path(__file__).parents[2] / "deploy" / "grafana"
each_dashboard = pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda each: each.uid)


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


def written(dashboard: Dashboard) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((GRAFANA / "dashboards" / file_name(dashboard)).read_text())
    return told


@each_dashboard
def test_the_file_is_what_the_code_writes(dashboard: Dashboard) -> None:
    path = GRAFANA / "dashboards" / file_name(dashboard)
    assert path.read_text() == dashboard_json(dashboard), (
        "python -m sparring.observe.dashboards.grafana deploy/grafana/dashboards"
    )


def test_there_is_no_file_that_no_code_writes() -> None:
    there = {path.name for path in (GRAFANA / "dashboards").iterdir()}
    assert there == {file_name(dashboard) for dashboard in DASHBOARDS}


def test_ids_are_unique() -> None:
    assert len({dashboard.uid for dashboard in DASHBOARDS}) == len(DASHBOARDS)
    for dashboard in DASHBOARDS:
        shown = written(dashboard)["panels"]
        for name in ("id", "title"):
            assert len({panel[name] for panel in shown}) == len(shown) == len(dashboard.panels)


@each_dashboard
def test_grafanas_own_types_know_every_field_and_value(dashboard: Dashboard) -> None:
    plugins.register_default_plugins()
    read = GrafanaDashboard.from_json(written(dashboard))
    back = json.loads(json.dumps(read, cls=JSONEncoder))
    assert list(lost(written(dashboard), back)) == []


def lost(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """Where `after` lacks or alters what is in `before`; what it has beside are defaults."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            yield from lost(value, after.get(key), f"{path}/{key}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from lost(one, other, f"{path}/{number}")
    elif before != after:
        yield path


@each_dashboard
def test_panels_do_not_overlap(dashboard: Dashboard) -> None:
    places = [panel["gridPos"] for panel in written(dashboard)["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, two in combinations(places, 2):
        beside = one["x"] + one["w"] <= two["x"] or two["x"] + two["w"] <= one["x"]
        above = one["y"] + one["h"] <= two["y"] or two["y"] + two["h"] <= one["y"]
        assert beside or above, (one, two)


def test_the_data_source_that_all_ask_is_the_one_that_is_provisioned() -> None:
    provisioned = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert [(each["type"], each["uid"]) for each in provisioned] == [(SOURCE["type"], SOURCE["uid"])]
    for dashboard in DASHBOARDS:
        asked = re.findall(r'"datasource": (\{[^}]*\})', json.dumps(written(dashboard)))
        assert len(asked) > len(dashboard.panels) and {json.loads(each)["uid"] for each in asked} == {SOURCE["uid"]}


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


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian's prometheus) is not installed")
def test_every_query_parses(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": query.expr.replace("$__rate_interval", "1m")}
        for number, (_, query) in enumerate(panels())
    ]
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    told = subprocess.run(["promtool", "check", "rules", path], capture_output=True, text=True, timeout=60)
    assert told.returncode == 0 and f"{len(rules)} rules found" in told.stdout, told.stderr
