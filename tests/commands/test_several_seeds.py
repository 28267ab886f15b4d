"""Several seeds: mean and range are those of the finished runs, and an interruption ends the series."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sparring.commands.several_seeds import Trained, numbers_of, train_with_seeds
from sparring.errors import UsageError
from sparring.runs import open_run
from tests.support.runs import small


def run(seed: int, phase: str, robust: float | None) -> dict[str, Any]:
    return {"seed": seed, "phase": phase, "clean_accuracy": 0.5, "robust_accuracy": robust, "seconds": 2.0}


def test_only_finished_runs_count() -> None:
    trained = Trained([run(0, "finished", 0.25), run(1, "finished", 0.75), run(2, "stopped", None)])
    assert trained.totals()["robust_accuracy"] == {"mean": 0.5, "min": 0.25, "max": 0.75}
    assert [row["seed"] for row in trained.rows()] == ["0", "1", "2", "mean", "min", "max"]
    assert [row["robust"] for row in trained.rows()] == ["25.0 %", "75.0 %", "–", "50.0 %", "25.0 %", "75.0 %"]
    assert Trained([run(2, "stopped", None)]).totals() == {}


@pytest.mark.parametrize("seeds", ["", "1,x", "1,1"])
def test_seeds_are_different_numbers(seeds: str) -> None:
    with pytest.raises(UsageError, match=r"--seeds"):
        numbers_of(seeds)


def test_warnings_of_all_runs_are_told_once_with_their_seeds() -> None:
    runs: list[dict[str, Any]] = [
        {"seed": 0, "warnings": ["weak"]},
        {"seed": 1, "warnings": ["weak", "dark"]},
        {"seed": 2},
    ]
    assert Trained(runs).warnings == ["seed 0, 1: weak", "seed 1: dark"]


def test_an_interrupted_run_is_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def interrupted(config: Any, show: Any) -> Any:
        made.append(config.train.seed)
        return SimpleNamespace(phase="interrupted", run=SimpleNamespace(path=tmp_path), summary={})

    monkeypatch.setattr("sparring.commands.several_seeds.train", interrupted)
    trained = train_with_seeds(small(tmp_path), [3, 4], lambda title: lambda: nullcontext(SimpleNamespace(update=None)))
    assert made == [3] and trained.interrupted


def test_a_name_gets_the_seed(tmp_path: Path) -> None:
    config = small(tmp_path, engine="sync", run={"name": "mine"}, train={"max_steps": 1})
    view = nullcontext(SimpleNamespace(update=lambda state, workers: None))
    (found,) = train_with_seeds(config, [7], lambda title: lambda: view).runs
    assert open_run(Path(found["run"])).path.name == "mine-seed-7"
