"""Steps of a run are made again in one process, to the same bits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sparring.commands.replay import Compared, replay
from sparring.commands.train import resume, train
from sparring.config import config_of, from_tree, to_toml
from sparring.engines.recorded import steps_of
from sparring.errors import SparringError, UsageError
from sparring.observe.state import RunState
from sparring.runs import Run, lines_of
from sparring.trainer import checkpoints
from tests.support.runs import small, stopped_at
from tests.support.tampered import put_weights

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
    assert (again.began, again.ended, again.same) == ((0, 7, True) if first == 6 else (4, 7, None))
    assert [line["step"] for line in again.steps] == [6, 7]
    assert all(line["loss"] == line["recorded_loss"] for line in found.steps)
    assert _times(run) == before, "it is only read"


def test_a_resumed_run_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparring.trainer.recorder.REPORT_EVERY_S", 0.0)
    run = stopped_at(6, tmp_path, **FRESH)
    assert replay(run.path).same


@pytest.mark.parametrize("staleness", [{"finish": 2, "lead": 2}, {}])
def test_a_run_that_was_made_longer_is_made_again_with_the_length_that_it_had_at_each_step(
    tmp_path: Path, staleness: dict[str, Any]
) -> None:
    """Twice, from 3 epochs to 4 and 6 of 4 steps each; the rate follows a schedule, and ε its warm-up."""
    train_, checkpoint = {"epochs": 3, "batch_size": 400, "max_steps": None}, {"every_steps": 5, "keep": 100}
    run = trained(tmp_path, train=train_, checkpoint=checkpoint, staleness=staleness)
    for epochs in (4, 6):
        resume(run.path, {"train.epochs": epochs}, progress=False)
    phases = run.read_json("phases.json")
    assert phases == [
        {"from_step": 12, "changes": {"train.epochs": [3, 4]}},
        {"from_step": 16, "changes": {"train.epochs": [4, 6]}},
    ]
    whole, across, later = replay(run.path), replay(run.path, 10, 20), replay(run.path, 17, 24)
    assert whole.compared == same(5, 10, 12, 15, 16, 20, 24) and whole.ended == 24
    assert (across.began, across.compared) == (10, same(12, 15, 16, 20))
    assert (later.began, later.compared) == (16, same(20, 24))
    assert all(line["loss"] == line["recorded_loss"] for line in whole.steps)
    (run.path / "phases.json").write_text('[{"from_step": 12}]')
    with pytest.raises(SparringError, match=r"phases\.json is damaged"):
        replay(run.path)


@pytest.mark.parametrize("damaged", [1, 3])
def test_a_longer_run_that_goes_on_from_an_older_checkpoint_is_made_again(tmp_path: Path, damaged: int) -> None:
    """Steps before the boundary, or between two, are made with the new length."""
    train_, checkpoint = {"epochs": 3, "batch_size": 400, "max_steps": None}, {"every_steps": 5, "keep": 100}
    run = trained(tmp_path, train=train_, checkpoint=checkpoint)
    for epochs in (4, 6):
        resume(run.path, {"train.epochs": epochs}, progress=False)
    for path in checkpoints.steps_in(run.checkpoints)[damaged:]:
        (path / "model.safetensors").write_bytes(b"")
    run.write_json("state.json", {**run.read_object("state.json"), "phase": "training"})
    resume(run.path, progress=False)
    phases, went_on = run.read_json("phases.json"), {1: 5, 3: 12}[damaged]
    assert [phase["from_step"] for phase in phases or []] == [went_on, went_on]
    found = replay(run.path)
    assert found.ended == 24 and found.same and len(found.compared) >= 4


def test_weights_that_are_not_those_of_the_recipe_are_found(tmp_path: Path) -> None:
    run = trained(tmp_path)
    checkpoint = run.checkpoints / "step-000000008"
    weights = load_file(checkpoint / "model.safetensors")
    next(iter(weights.values())).view(-1)[0] += 0.25
    put_weights(checkpoint, weights)
    found = replay(run.path)
    assert found.same is False and found.compared == [*same(4), Compared(8, 0.25), *same(12)]


def without_one(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return dict(list(weights.items())[1:])


def of_other_shape(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor[None] for name, tensor in weights.items()}


def with_another(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**weights, "zz": torch.zeros(2)}


@pytest.mark.parametrize("altered", [without_one, of_other_shape, with_another, lambda weights: {}])
def test_other_tensors_are_not_the_same(tmp_path: Path, altered: Callable[..., dict[str, Tensor]]) -> None:
    run = trained(tmp_path)
    checkpoint = run.checkpoints / "step-000000012"
    put_weights(checkpoint, altered(load_file(checkpoint / "model.safetensors")))
    with pytest.raises(SparringError, match="step-000000012 holds other tensors than the run's network"):
        replay(run.path)


@pytest.mark.parametrize("name", ["model.safetensors", "state.pt", "progress.json"])
def test_a_damaged_checkpoint_is_not_compared_with(tmp_path: Path, name: str) -> None:
    run = trained(tmp_path)
    (run.checkpoints / "step-abc").mkdir()
    path = run.checkpoints / "step-000000012" / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SparringError, match=rf"step-000000012 is damaged \({name} changed"):
        replay(run.path)
    found = replay(run.path, 0, 6)
    assert (found.ended, found.compared) == (6, same(4))
    assert replay(run.path, 4, 6).same is None, "there is no checkpoint of step 5 or 6"


@pytest.mark.parametrize(
    ("first", "until", "named"),
    [(5, 5, "--from 5 --until 5"), (-1, 3, "--from -1"), (20, None, "--from 20 --until 12")],
)
def test_steps_that_are_none_are_refused(tmp_path: Path, first: int, until: int | None, named: str) -> None:
    run = trained(tmp_path)
    with pytest.raises(UsageError, match=named):
        replay(run.path, first, until)


LOOSE: dict[str, Any] = {
    "engine": "virtual",
    "workers": {"count": 3},
    "staleness": {"max_staleness": 4},
    "allocator": {"name": "bullettrain", "slots": 0},
    "train": {"batch_size": 32, "epochs": 2, "max_steps": 30},
    "checkpoint": {"every_steps": 10, "keep": 4},
    "virtual": {"speeds": [1.0, 0.4, 1.7], "events": [{"at_s": 0.1, "worker": 1, "what": "dies"}]},
}


@pytest.mark.parametrize(
    "groups",
    [
        {},
        {"staleness": {"max_staleness": 6, "exchange": False, "publish_every": 2, "refresh": 1, "age_half_life": 3.0}},
        {"objective": {"name": "trades"}, "allocator": {"name": "none"}, "train": {**LOOSE["train"], "ema": 0.9}},
    ],
)
def test_what_depended_on_timing_is_made_again_as_it_was_recorded(tmp_path: Path, groups: dict[str, Any]) -> None:
    run = train(small(tmp_path, **{**LOOSE, **groups}), progress=False).run
    versions = {
        version for made in steps_of(lines_of(run.history)).values() for shard in made for version in shard.steps
    }
    assert len(versions) > 5, "the attacks were made under many weights"
    found, again = replay(run.path), replay(run.path, 21, 25)
    assert (found.began, found.ended, found.compared) == (0, 30, same(10, 20, 30))
    assert (again.began, again.ended, [line["step"] for line in again.steps]) == (0, 25, [22, 23, 24, 25])
    assert all(line["loss"] == line["recorded_loss"] for line in found.steps if line["recorded_loss"] is not None)


def test_a_recorded_run_that_was_resumed_is_made_from_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparring.trainer.recorder.REPORT_EVERY_S", 0.0)
    run = stopped_at(12, tmp_path, **LOOSE)
    resume(run.path, progress=False)
    found = replay(run.path, 14)
    assert found.same and found.began == 12 and found.ended == 30


def without_a_line(lines: list[dict[str, Any]]) -> None:
    del lines[8]


def without_tickets(lines: list[dict[str, Any]]) -> None:
    del lines[8]["tickets"]


def with_a_worker_too_many(lines: list[dict[str, Any]]) -> None:
    lines[8]["workers"].append("worker-9")


@pytest.mark.parametrize(
    ("alter", "said"),
    [
        (without_a_line, "no line for step 9 of --until 30: it is damaged"),
        (without_tickets, "the line of step 9 is damaged"),
        (with_a_worker_too_many, "the line of step 9 is damaged"),
    ],
)
def test_a_damaged_record_is_an_error(tmp_path: Path, alter: Callable[[list[dict[str, Any]]], None], said: str) -> None:
    run = train(small(tmp_path, **LOOSE), progress=False).run
    lines = lines_of(run.history)
    alter(lines)
    run.history.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    with pytest.raises(SparringError, match=f"steps.jsonl.*{said}"):
        replay(run.path)


def test_another_version_of_one_attack_step_is_noticed(tmp_path: Path) -> None:
    run = train(small(tmp_path, **LOOSE), progress=False).run
    lines = lines_of(run.history)
    prepared, *steps = lines[8]["made_by"][0]
    lines[8]["made_by"][0] = [prepared - 1, *steps]
    run.history.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert replay(run.path).same is False


@pytest.mark.parametrize(
    ("groups", "named"),
    [
        ({"engine": "ddp"}, "engine = 'ddp': only runs of ray, virtual, sync and simulated"),
        ({"allocator": {"name": "bullettrain", "slots": 64}}, r"allocator\.slots = 64"),
        ({"attack": {"start": "last"}}, r"attack\.start = last"),
        ({"staleness": {"refresh": "auto"}}, r"staleness\.refresh = auto"),
        ({"model": {"name": "mnist-16-32-100", "precision": "bf16"}}, r"model\.precision = bf16"),
        ({"guard": {"staleness": True}}, r"guard\.staleness = True"),
    ],
)
def test_what_is_not_recorded_is_refused_by_name(tmp_path: Path, groups: dict[str, Any], named: str) -> None:
    (tmp_path / "config.toml").write_text(to_toml(small(tmp_path, **{"engine": "ray", **groups})))
    with pytest.raises(UsageError, match=named):
        replay(tmp_path)


def _times(run: Run) -> list[tuple[Path, int]]:
    """When the files of a run were written, but for the log of this process."""
    return sorted((path, path.stat().st_mtime_ns) for path in run.path.rglob("*") if path != run.log)


def test_the_settings_of_another_engine_are_not_called_idle(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = trained(tmp_path, engine="virtual", staleness={"max_staleness": 3}, attack={"noise": 1.0})
    assert "attack.noise = 1.0" in caplog.text
    caplog.clear()
    assert replay(run.path).same and "No effect" not in caplog.text


def test_a_checkpoint_that_a_training_run_has_dropped_meanwhile_is_not_compared(tmp_path: Path) -> None:
    run = trained(tmp_path)

    def drop(state: RunState) -> None:
        shutil.rmtree(run.checkpoints / "step-000000004", ignore_errors=True)

    assert replay(run.path, report=drop).compared == same(8, 12)


def test_a_run_that_was_judged_meanwhile_is_made_again_without_that(tmp_path: Path) -> None:
    """What it was judged by needs evaluation.rolling, which does not go with one process."""
    run = trained(tmp_path)
    config = config_of(run)
    rolling = {"rolling": True, "rolling_samples": 20, "rolling_share": 0.1}
    judged = from_tree({**config.model_dump(), "engine": "ray", "evaluation": {**dict(config.evaluation), **rolling}})
    run.write_config(to_toml(judged))
    assert replay(run.path).same
