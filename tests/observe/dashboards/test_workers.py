"""What the workers do, worked out by Prometheus from series whose answer is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparring.observe.dashboards.workers import WORKERS
from tests.support.dashboards import assert_answers, query, with_promtool


@with_promtool
@pytest.mark.parametrize(
    ("panel", "legend", "series", "expected"),
    [
        (
            "Workers",
            "reporting",
            {
                'sparring_worker_last_heartbeat_timestamp_seconds{worker="w0"}': "0+10x30",
                'sparring_worker_last_heartbeat_timestamp_seconds{worker="w1"}': "0+10x22",
                'sparring_worker_last_heartbeat_timestamp_seconds{worker="w2"}': "0+10x10 _x20",
                'sparring_worker_last_heartbeat_timestamp_seconds{worker="w3"}': "60x30",
            },
            {"{}": 2},
        ),
        ("Workers", "reporting", {}, {"{}": 0}),
        (
            "Waits",
            "{{worker}}: {{reason}}",
            {
                'sparring_worker_wait_seconds_total{worker="w0",reason="no_ticket"}': "0+2x30",
                'sparring_worker_wait_seconds_total{worker="w0",reason="snapshot"}': "0+1x30",
            },
            {'{worker="w0", reason="no_ticket"}': 0.2, '{worker="w0", reason="snapshot"}': 0.1},
        ),
        (
            "Allocated",
            "{{worker}}: {{class}}",
            {
                'sparring_worker_allocated_examples_total{worker="w0",class="robust"}': "0+30x30",
                'sparring_worker_allocated_examples_total{worker="w0",class="boundary"}': "0+10x30",
                'sparring_worker_allocated_examples_total{worker="w1",class="boundary"}': "0+20x30",
            },
            {
                '{worker="w0", class="robust"}': 0.75,
                '{worker="w0", class="boundary"}': 0.25,
                '{worker="w1", class="boundary"}': 1,
            },
        ),
        (
            "Allocated in all consumed shards",
            "{{class}}",
            {
                'sparring_allocated_examples_total{class="robust"}': "0+30x30",
                'sparring_allocated_examples_total{class="boundary"}': "0+10x30",
            },
            {'{class="robust"}': 0.75, '{class="boundary"}': 0.25},
        ),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_a_panel_shows_what_it_says(
    panel: str, legend: str, series: dict[str, str], expected: dict[str, float], tmp_path: Path
) -> None:
    assert_answers(query(WORKERS, panel, legend), series, expected, tmp_path)
