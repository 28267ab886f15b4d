from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from sparring.observe.report import SUMMARY_KEYS, summary, table
from sparring.observe.state import RunState
from tests.support.states import full_state

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("state", [RunState(), full_state()])
def test_the_summary_has_every_documented_key_and_no_other(state: RunState) -> None:
    assert list(summary(state, {})) == list(SUMMARY_KEYS)
    json.dumps(summary(state, {}))


def test_the_summary_tells_the_run() -> None:
    found = summary(full_state(), {})
    expected = {
        "steps": 120,
        "examples_per_second": 128.0,
        "staleness_mean": 1.7,
        "staleness_max": 4,
        "drift_mean": 0.05,
        "shards_dropped": 3,
        "shards_dropped_by_reason": {"stale": 2, "lease_expired": 1},
        "shards_set_aside": 1,
        "samples": 512,
        "robust_accuracy": 0.612,
        "attack": None,
        "worker_shards": 7,
        "trainer_shards": 3,
    }
    assert {key: found[key] for key in expected} == expected


def test_a_final_evaluation_goes_before_the_held_out_accuracy() -> None:
    evaluation = {"clean_accuracy": 0.9, "robust_accuracy": 0.5, "attack": "PGD-50, 3 restarts", "samples": 360}
    found = summary(full_state(), evaluation)
    assert {key: found[key] for key in evaluation} == evaluation


def test_a_figure_that_nobody_described_is_refused() -> None:
    with pytest.raises(ValueError, match="speed not in SUMMARY_KEYS"):
        summary(RunState(), {"speed": 1})


def test_the_table_shows_shares_as_percentages_and_gaps_as_dashes() -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    rows = [
        {"run": "sync [a]", "robust_accuracy": 0.6125, "seconds": 12.3456, "workers": None},
        {"run": "ray", "robust_accuracy": 0.5, "workers": 2},
    ]
    console.print(table("Results", rows))
    text = console.export_text()
    lines = [line.strip("│ ").split("│") for line in text.splitlines() if "│" in line]
    assert [[cell.strip() for cell in line] for line in lines] == [
        ["sync [a]", "61.3 %", "12.35", "–"],
        ["ray", "50.0 %", "–", "2"],
    ]
    assert "Results" in text and "robust accuracy" in text


def test_every_key_of_a_summary_is_documented() -> None:
    reported = (DOCS / "operations.md").read_text()
    assert [key for key in SUMMARY_KEYS if f"`{key}`" not in reported] == []
