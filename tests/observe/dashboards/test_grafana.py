"""The files are what the code writes, and what Grafana reads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard as GrafanaDashboard

from sparring.observe.dashboards import DASHBOARDS
from sparring.observe.dashboards.grafana import SOURCE, dashboard_json, file_name, write
from sparring.observe.dashboards.queries import Dashboard

GRAFANA = Path(__file__).parents[3] / "deploy" / "grafana"
each_dashboard = pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda each: each.uid)


def written(dashboard: Dashboard) -> dict[str, Any]:
    reported: dict[str, Any] = json.loads((GRAFANA / "dashboards" / file_name(dashboard)).read_text())
    return reported


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


def test_writing_makes_one_file_a_dashboard_and_the_folder(tmp_path: Path) -> None:
    write(tmp_path / "made" / "here")
    found = {path.name: path.read_text() for path in (tmp_path / "made" / "here").iterdir()}
    assert found == {file_name(dashboard): dashboard_json(dashboard) for dashboard in DASHBOARDS}
