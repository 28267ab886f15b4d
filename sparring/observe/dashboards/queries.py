"""What a dashboard is made of, and the PromQL that its panels share.

`$run` is the run that is looked at, `$__rate_interval` a window of several scrapes; Grafana fills both in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple


class Query(NamedTuple):
    """One query; `legend` names its series, with {{label}} for what tells them apart."""

    expr: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """One picture. `unit` is Grafana's name of the unit, `width` counts in 24ths, `absent` says when it stays empty."""

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
    """A metric as it is."""
    return Query(f'{metric}{{run="$run"}}', legend)


def rate(metric: str, legend: str, by: str = "") -> Query:
    """How much a counter grows a second, summed over all labels but `by`."""
    grouped = f"sum by ({by}) " if by else "sum"
    return Query(f'{grouped}(rate({metric}{{run="$run"}}[$__rate_interval]))', legend)


def ratio(above: str, below: str, legend: str) -> Query:
    """How much one counter grows for each 1 that another does."""
    return Query(f"{rate(above, '').expr} / {rate(below, '').expr}", legend)


def mean(histogram: str, legend: str) -> Query:
    """Exact mean of what a histogram has counted in the window."""
    return ratio(f"{histogram}_sum", f"{histogram}_count", legend)
