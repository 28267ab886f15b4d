"""The table of metrics: names by the conventions, readings with all their labels, nothing made up."""

from __future__ import annotations

import pytest

from sparring.observe.metrics import METRICS
from sparring.observe.readings import Metric
from tests.support.states import full_state, heartbeats


def test_names_follow_the_conventions() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert metric.name.startswith("sparring_")
        assert metric.name.endswith("_total") == (metric.type == "counter")
        assert metric.help.endswith(".")


@pytest.mark.parametrize("metric", METRICS, ids=lambda each: each.name)
def test_a_reading_has_a_value_for_every_label(metric: Metric) -> None:
    readings = list(metric.source(full_state(), heartbeats()))
    assert readings and all(len(labels) == len(metric.labels) for labels, _ in readings)
    assert len({labels for labels, _ in readings}) == len(readings), "two readings of one series"
