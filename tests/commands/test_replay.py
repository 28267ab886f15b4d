"""Steps of a run are made again in one process, to the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from sparring.commands.replay import Compared, replay
from sparring.commands.train import train
from sparring.config import to_toml
from sparring.errors import UsageError
from sparring.runs import Run
from tests.support.runs import small, stopped_at

FRESH = {"engine": "sync", "staleness": {"finish": 2, "lead": 2}, "checkpoint": {"every_steps": 4, "keep": 3}}


def trained(root: Path, **groups: Any) -> Run:
    return train(small(root, **{**FRESH, **groups}), progress=False).run


def same(*steps: int) -> list[Compared]:
    return [Compared(step, 0.0) for step in steps]


@pytest.mark.parametrize(
    "groups",
    [
        {},
        {"engine": "simulated", "staleness": {}, "simulated": {"staleness": 3}},
        {"pruning": {"name": "high", "epoch": 1}, "train": {"epochs": 2, "batch_size": 250, "max_steps": 10}},
    ],
)
def test_a_run_is_made_again_from_its_beginning_and_from_a_checkpoint(tmp_path: Path, groups: dict[str, Any]) -> None:
    run = trained(tmp_path, **groups)
    before, last = _times(run), 10 if "pruning" in groups else 12
    first = 6 if "pruning" in groups else 4  # the decision writes a checkpoint
    found, again = replay(run.path), replay(run.path, 5, 7)
    assert (found.began, found.ended, found.compared) == (0, last, same(first, 8, last)) and found.same
    assert (again.began, again.ended) == (0 if first == 6 else 4, 7) and again.same
    assert [line["step"] for line in again.steps] == [6, 7]
    assert all(line["loss"] == line["recorded_loss"] for line in found.steps)
    assert _times(run) == before, "it is only read"


def test_a_resumed_run_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparring.trainer.recorder.REPORT_EVERY_S", 0.0)
    run = stopped_at(6, tmp_path, **FRESH)
    assert replay(run.path).same


def test_weights_that_are_not_those_of_the_recipe_are_found(tmp_path: Path) -> None:
    run = trained(tmp_path)
    path = run.checkpoints / "step-000000008" / "model.safetensors"
    weights = load_file(path)
    next(iter(weights.values())).view(-1)[0] += 0.25
    save_file(weights, path)
    found = replay(run.path)
    assert not found.same and found.compared == [*same(4), Compared(8, 0.25), *same(12)]


@pytest.mark.parametrize(
    ("first", "until", "named"),
    [(5, 5, "--from 5 --until 5"), (-1, 3, "--from -1"), (20, None, "--from 20 --until 12")],
)
def test_steps_that_are_none_are_refused(tmp_path: Path, first: int, until: int | None, named: str) -> None:
    run = trained(tmp_path)
    with pytest.raises(UsageError, match=named):
        replay(run.path, first, until)


@pytest.mark.parametrize("engine", ["ray", "ddp", "virtual"])
def test_a_run_that_depended_on_timing_is_refused(tmp_path: Path, engine: str) -> None:
    (tmp_path / "config.toml").write_text(to_toml(small(tmp_path, engine=engine)))
    with pytest.raises(UsageError, match=rf"engine = '{engine}' with staleness\.finish = 'off'.*depended on timing"):
        replay(tmp_path)


def _times(run: Run) -> list[tuple[Path, int]]:
    """When the files of a run were written, but for the log of this process."""
    return sorted((path, path.stat().st_mtime_ns) for path in run.path.rglob("*") if path != run.log)
