"""How far, how stale and how fast, worked out by Prometheus from series whose answer is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparring.observe.dashboards.run import RUN
from tests.support.dashboards import assert_answers, query, with_promtool


@with_promtool
@pytest.mark.parametrize(
    ("panel", "legend", "series", "expected"),
    [
        (
            "Progress",
            "of all steps",
            {"sparring_steps_total": "0+10x30", "sparring_planned_steps": "960x30"},
            {'{run="r"}': 0.25},
        ),
        (
            "Mean staleness",
            "steps",
            {"sparring_staleness_steps_sum": "0+30x30", "sparring_staleness_steps_count": "0+20x30"},
            {"{}": 1.5},
        ),
        (
            "Dropped",
            "dropped",
            {
                'sparring_shards_dropped_total{reason="stale"}': "0+10x30",
                'sparring_shards_dropped_total{reason="failed"}': "0+10x30",
                'sparring_shards_consumed_total{source="worker"}': "0+50x30",
                'sparring_shards_consumed_total{source="trainer"}': "0+10x30",
            },
            {"{}": 0.25},
        ),
        (
            "Staleness of consumed shards",
            "{{le}}",
            {
                'sparring_staleness_steps_bucket{le="0.0"}': "0+10x30",
                'sparring_staleness_steps_bucket{le="+Inf"}': "0+40x30",
            },
            {'{le="0.0"}': 60, '{le="+Inf"}': 240},
        ),
        (
            "Drift",
            "mean drift",
            {"sparring_drift_total": "0+5x30", "sparring_staleness_steps_count": "0+20x30"},
            {"{}": 0.25},
        ),
        (
            "Speed-up against synchronous",
            "estimate",
            {
                "sparring_attack_seconds_total": "0+30x30",
                "sparring_step_seconds_total": "0+5x30",
                "sparring_run_seconds_total": "0+10x30",
            },
            {"{}": 3.5},
        ),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_a_panel_shows_what_it_says(
    panel: str, legend: str, series: dict[str, str], expected: dict[str, float], tmp_path: Path
) -> None:
    assert_answers(query(RUN, panel, legend), series, expected, tmp_path)
