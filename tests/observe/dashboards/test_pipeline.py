"""Who waits for whom, worked out by Prometheus from series whose answer is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparring.observe.dashboards.pipeline import PIPELINE
from tests.support.dashboards import assert_answers, query, with_promtool


@with_promtool
@pytest.mark.parametrize(
    ("panel", "legend", "series", "expected"),
    [
        (
            "Stalls",
            "workers wait for {{reason}}",
            {
                'sparring_worker_wait_seconds_total{worker="w0",reason="no_ticket"}': "0+2x30",
                'sparring_worker_wait_seconds_total{worker="w1",reason="no_ticket"}': "0+4x30",
                'sparring_worker_wait_seconds_total{worker="w1",reason="snapshot"}': "0+1x30",
            },
            {'{reason="no_ticket"}': 0.3, '{reason="snapshot"}': 0.1},
        ),
        (
            "Work",
            "workers attack",
            {
                'sparring_worker_busy_seconds_total{worker="w0"}': "0+8x30",
                'sparring_worker_busy_seconds_total{worker="w1"}': "0+6x30",
            },
            {"{}": 0.7},
        ),
        (
            "Seconds per snapshot",
            "one snapshot",
            {
                "sparring_snapshot_publish_seconds_total": "0+1x30",
                "sparring_snapshot_publications_total": "0+20x30",
            },
            {"{}": 0.05},
        ),
        (
            "Seconds since",
            "checkpoint",
            {"sparring_checkpoint_timestamp_seconds": "100x30"},
            {'{run="r"}': 4 * 60 - 100},
        ),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_a_panel_shows_what_it_says(
    panel: str, legend: str, series: dict[str, str], expected: dict[str, float], tmp_path: Path
) -> None:
    assert_answers(query(PIPELINE, panel, legend), series, expected, tmp_path)
