"""Whatever a run's folder lacks or holds damaged is said and never an error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparring.config import from_tree, new_run
from sparring.report.records import MOST_LINES, read_records
from sparring.runs import append
from tests.support.reported import recorded, state_at


def test_a_whole_run_has_nothing_missing(tmp_path: Path) -> None:
    records = read_records(recorded(tmp_path), "mine")
    assert records.remarks == () and records.name == "mine"
    assert [state.step for state in records.history] == list(range(5, 41, 5))
    assert records.shards == {"worker-0": 4, "worker-1": 4}
    assert records.figures is not None and records.figures.robust_interval == (0.4, 0.6)
    assert records.evaluation is not None and len(records.evaluation.by_class) == 2
    assert records.curves is not None and records.average is None and records.settings["attack.name"] == "pgd"


def test_a_run_that_has_not_begun_says_what_there_is_not(tmp_path: Path) -> None:
    run = new_run(from_tree({"run": {"root": str(tmp_path), "name": "new"}}))
    said = " ".join(read_records(run, "new").remarks)
    assert "no summary.json" in said and "metrics.jsonl has no lines" in said and "last phase is 'died'" in said


@pytest.mark.parametrize(
    "name", ["summary.json", "state.json", "evaluation.json", "curves.json", "environment.json", "data.json"]
)
@pytest.mark.parametrize("content", ["{", "[1]", '{"samples": "many", "step": [], "by_epsilon": 3}', "null"])
def test_a_damaged_file_is_left_out_with_a_remark(tmp_path: Path, name: str, content: str) -> None:
    run = recorded(tmp_path)
    (run.path / name).write_text(content)
    records = read_records(run, "mine")
    assert len(records.history) == 8
    if content in ("{", "[1]"):
        assert any(name in remark for remark in records.remarks)


def test_settings_of_another_version_are_a_remark(tmp_path: Path) -> None:
    run = recorded(tmp_path)
    run.write_config("[attack]\nstrength = 3\n")
    records = read_records(run, "mine")
    assert records.settings == {} and records.recipe.startswith("[attack]")
    assert any("strength" in remark for remark in records.remarks)


def test_after_a_return_to_a_checkpoint_the_later_lines_count(tmp_path: Path) -> None:
    run = recorded(tmp_path)
    for step in (30, 35):
        append(run.metrics, json.dumps({**state_at(step).as_dict(), "loss": 9.0}))
    append(run.metrics, '{"step": 36, "lo')
    append(run.metrics, '{"step": "far"}')
    states = read_records(run, "mine").history
    assert [(state.step, state.loss == 9.0) for state in states[-3:]] == [(25, False), (30, True), (35, True)]


def test_long_histories_are_thinned_and_keep_their_end(tmp_path: Path) -> None:
    run = recorded(tmp_path)
    run.metrics.write_text("".join(json.dumps({"step": step}) + "\n" for step in range(1, 1001)))
    states = read_records(run, "mine").history
    assert len(states) == MOST_LINES and states[-1].step == 1000


def test_a_step_that_was_made_twice_is_counted_once(tmp_path: Path) -> None:
    run = recorded(tmp_path)
    append(run.history, json.dumps({"step": 40, "workers": ["worker-7"]}))
    append(run.history, json.dumps({"step": 45, "workers": 3}))
    assert read_records(run, "mine").shards == {"worker-0": 3, "worker-1": 4, "worker-7": 1}
