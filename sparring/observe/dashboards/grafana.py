"""The dashboards as Grafana's JSON: python -m sparring.observe.dashboards.grafana deploy/grafana/dashboards

Panels flow from left to right and start a new row where they do not fit any more.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from sparring.observe.dashboards import DASHBOARDS, RUNS
from sparring.observe.dashboards.queries import Dashboard, Panel

SOURCE = {"type": "prometheus", "uid": "sparring-prometheus"}  # as deploy/grafana/provisioning names it
SCHEMA_VERSION = 39
COLUMNS = 24
HEIGHTS = {"lines": 8, "stacked": 8, "heatmap": 8, "number": 4}
TYPES = {"lines": "timeseries", "stacked": "timeseries", "heatmap": "heatmap", "number": "stat"}


def dashboard_json(dashboard: Dashboard) -> str:
    """The file that Grafana is provisioned with."""
    return json.dumps(_dashboard(dashboard), indent=2, ensure_ascii=False) + "\n"


def file_name(dashboard: Dashboard) -> str:
    return f"{dashboard.uid.removeprefix('sparring-')}.json"


def _dashboard(dashboard: Dashboard) -> dict[str, Any]:
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.meaning,
        "tags": ["sparring"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,  # one crosshair on all panels
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "templating": {"list": [_choice_of_run()]},
        "links": [_to_the_others()],
        "panels": [
            _panel(panel, number, place)
            for number, (panel, place) in enumerate(zip(dashboard.panels, places(dashboard.panels), strict=True), 1)
        ],
    }


def places(panels: tuple[Panel, ...]) -> Iterator[dict[str, int]]:
    """Where each panel lies: left edge and width in 24ths, upper edge and height in Grafana's rows."""
    x = y = height = 0
    for panel in panels:
        if x + panel.width > COLUMNS:
            x, y, height = 0, y + height, 0
        height = max(height, HEIGHTS[panel.kind])
        yield {"x": x, "y": y, "w": panel.width, "h": HEIGHTS[panel.kind]}
        x += panel.width


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    absent = f" Empty where {panel.absent}." if panel.absent else ""
    return {
        "id": number,
        "type": TYPES[panel.kind],
        "title": panel.title,
        "description": panel.meaning + absent,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": OPTIONS[TYPES[panel.kind]],
        "targets": [
            {
                "refId": letter,
                "datasource": SOURCE,
                "expr": query.expr,
                "legendFormat": query.legend,
                "format": "heatmap" if panel.kind == "heatmap" else "time_series",
                "range": True,
            }
            for letter, query in zip(ascii_uppercase, panel.queries, strict=False)
        ],
    }


def _defaults(panel: Panel) -> dict[str, Any]:
    if TYPES[panel.kind] != "timeseries":
        return {"unit": panel.unit}
    stacked = panel.kind == "stacked"
    custom = {
        "fillOpacity": 40 if stacked else 0,
        "showPoints": "never",
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
    }
    return {"unit": panel.unit, "custom": custom}


OPTIONS: dict[str, dict[str, Any]] = {
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "none"},
    },
    "heatmap": {
        "calculate": False,
        "cellGap": 1,
        "color": {"mode": "scheme", "scheme": "Blues", "steps": 64},
        "yAxis": {"unit": "short"},
        "tooltip": {"show": True, "yHistogram": False},
        "legend": {"show": True},
    },
    "stat": {
        "colorMode": "none",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "values": False},
        "textMode": "auto",
    },
}


def _choice_of_run() -> dict[str, Any]:
    return {
        "type": "query",
        "name": "run",
        "label": "Run",
        "datasource": SOURCE,
        "query": {"query": RUNS, "refId": "run"},
        "refresh": 2,  # whenever the time range changes
        "sort": 2,  # the names begin with a time: the latest first
    }


def _to_the_others() -> dict[str, Any]:
    return {
        "type": "dashboards",
        "title": "Sparring",
        "tags": ["sparring"],
        "asDropdown": False,
        "includeVars": True,
        "keepTime": True,
        "targetBlank": False,
        "icon": "external link",
        "tooltip": "",
        "url": "",
    }


def write(folder: Path) -> None:
    """One file a dashboard."""
    folder.mkdir(parents=True, exist_ok=True)
    for dashboard in DASHBOARDS:
        (folder / file_name(dashboard)).write_text(dashboard_json(dashboard))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
