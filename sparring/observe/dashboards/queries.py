"""The parts of a dashboard, and the PromQL that its panels share.

`$run` is the run that is looked at, `$__rate_interval` a window of several scrapes; Grafana fills both in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple


class Query(NamedTuple):
    """One query. `legend` names its series; {{label}} stands for the value of a label."""

    expr: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """One panel. `unit` is Grafana's name of the unit, `width` is in 24ths, `absent` says when the panel is empty."""

    title: str
    meaning: str
    unit: str
    queries: tuple[Query, ...]
    kind: Literal["lines", "stacked", "heatmap", "number"] = "lines"
    width: int = 8
    absent: str = ""


@dataclass(frozen=True)
class Dashboard:
    """`uid` is part of its address and never changes."""

    uid: str
    title: str
    meaning: str
    panels: tuple[Panel, ...]


def now(metric: str, legend: str) -> Query:
    """The current value of a metric."""
    return Query(f'{metric}{{run="$run"}}', legend)


def rate(metric: str, legend: str, by: str = "") -> Query:
    """Increase of a counter per second, summed over all labels but `by`."""
    grouped = f"sum by ({by}) " if by else "sum"
    return Query(f'{grouped}(rate({metric}{{run="$run"}}[$__rate_interval]))', legend)


def ratio(above: str, below: str, legend: str) -> Query:
    """Increase of one counter divided by the increase of another."""
    return Query(f"{rate(above, '').expr} / {rate(below, '').expr}", legend)


def mean(histogram: str, legend: str) -> Query:
    """Exact mean of a histogram in the time window."""
    return ratio(f"{histogram}_sum", f"{histogram}_count", legend)
