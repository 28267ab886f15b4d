"""A run's weights are found and evaluated from its folder: the last, the best or the average, as it is asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import sparring
from sparring.attacks import PGD
from sparring.commands.evaluate import (
    corruptions_of_run,
    curves_of_run,
    evaluate_run,
    margins_of_run,
    open_trained,
)
from sparring.commands.judging import How
from sparring.commands.train import train
from sparring.commands.transferring import transfer_runs
from sparring.config import DataSettings, config_of
from sparring.data import load
from sparring.errors import SparringError, UsageError
from sparring.evaluation import evaluate
from sparring.runs import Run, open_run
from sparring.trainer import checkpoints
from tests.support.runs import small

CHEAP = {"evaluation.samples": "40", "evaluation.steps": "3", "evaluation.restarts": "2"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """On the digits as npz files beside it, with an average and a best checkpoint; no test changes it."""
    root = tmp_path_factory.mktemp("made")
    (root / "data").mkdir()
    splits: tuple[Literal["train", "test"], ...] = ("train", "test")
    for split in splits:
        data = load(DataSettings(), split)
        images = data.images(torch.arange(len(data)))[:, 0]
        np.savez(root / "data" / f"{split}.npz", images=images.numpy(), labels=data.labels.numpy())
    config = small(
        root,
        engine="sync",
        run={"name": "made"},
        data={"name": f"npz:{root / 'data'}", "holdout": 100},
        train={"epochs": 2, "max_steps": 8, "batch_size": 64, "ema": 0.5, "evaluate_every_epochs": 0.25},
        checkpoint={"every_steps": 1, "keep": 100},
        attack={"steps": 1, "epsilon": 0.05, "warmup_epochs": 0.0},
        optimizer={"lr": 0.005},
    )
    return train(config, progress=False).run


@pytest.fixture
def run(made: Run, tmp_path: Path) -> Run:
    """A copy of it, data and all."""
    shutil.copytree(made.path.parent, tmp_path / "copy")
    copied = Run(tmp_path / "copy" / "made")
    copied.write_config(copied.config_file.read_text().replace(str(made.path.parent), str(tmp_path / "copy")))
    return copied


def assert_holds(model: nn.Module, file: Path) -> None:
    expected = load_file(file)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items()), file
    assert not model.training


def test_the_last_the_best_or_the_average_is_loaded_as_it_is_asked_for(made: Run) -> None:
    last, best = checkpoints.latest(made.checkpoints), checkpoints.best(made.checkpoints)
    assert last is not None and best is not None and best != last, "else this would show little"
    assert_holds(sparring.load_model(made.path), last / "model.safetensors")
    assert_holds(sparring.load_model(str(made.path), weights="ema"), last / checkpoints.AVERAGE)
    assert_holds(sparring.load_model(made.path, best=True), best / "model.safetensors")
    with pytest.raises(UsageError, match="weights = 'average': it must be 'plain' or 'ema'"):
        sparring.load_model(made.path, weights="average")  # type: ignore[arg-type]


def test_a_model_is_loaded_where_its_data_are_not_and_evaluated_only_where_they_are(run: Run) -> None:
    shutil.rmtree(run.path.parent / "data")
    assert sparring.load_model(run.path)(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    with pytest.raises(SparringError, match=r"data\.name = 'npz:.*data'"):
        evaluate_run(run, CHEAP)


def test_a_run_that_noted_nothing_of_its_data_is_loaded_by_them(run: Run) -> None:
    run.data.unlink()
    assert sparring.load_model(run.path)(torch.rand(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("best", [False, True])
def test_the_figures_are_those_of_the_weights_under_the_attack_asked_for(run: Run, best: bool) -> None:
    found = evaluate_run(run, CHEAP, best=best)
    model, test = sparring.load_model(run.path, best=best), load(config_of(run).data, "test")
    expected = evaluate(model, test, PGD(0.05, steps=3, restarts=2), samples=40, seed=config_of(run).train.seed)
    assert {name: found[name] for name in expected.as_dict() if name != "seconds"} == {
        name: value for name, value in expected.as_dict().items() if name != "seconds"
    }
    path = checkpoints.best(run.checkpoints) if best else checkpoints.latest(run.checkpoints)
    assert path is not None and (found["checkpoint"], found["weights"]) == (path.name, "plain")
    assert run.read_json("evaluation.json") == json.loads(json.dumps(found))


def test_figures_on_another_test_set_say_so(run: Run) -> None:
    path = run.path.parent / "data" / "test.npz"
    with np.load(path) as stored:
        np.savez(path, images=stored["images"][:-1], labels=stored["labels"][:-1])
    assert evaluate_run(run, CHEAP)["warnings"][0].startswith("The test set is not the one that the run began with")


def test_a_test_set_of_other_images_than_the_run_was_trained_on_is_refused(run: Run) -> None:
    path = run.path.parent / "data" / "test.npz"
    with np.load(path) as stored:
        np.savez(path, images=stored["images"][:, :7], labels=stored["labels"])
    with pytest.raises(UsageError, match=r"test images are \(1, 7, 8\) of 10 classes, .* was trained on \(1, 8, 8\)"):
        evaluate_run(run, CHEAP)


@pytest.mark.parametrize(
    ("changes", "name"),
    [({"attack.steps": "9"}, "attack.steps"), ({"data.holdout": "0"}, "data.holdout"), ({"seed": "3"}, "train.seed")],
)
def test_what_was_trained_cannot_be_changed_afterwards(made: Run, changes: dict[str, str], name: str) -> None:
    with pytest.raises(UsageError, match=f"--{name} cannot change here"):
        open_trained(made, changes)


@pytest.mark.parametrize("missing", [{"best": False}, {"best": True}])
def test_a_run_without_such_a_checkpoint_is_refused(run: Run, missing: dict[str, Any]) -> None:
    shutil.rmtree(run.checkpoints)
    run.checkpoints.mkdir()
    kind = "best" if missing["best"] else "whole"
    with pytest.raises(SparringError, match=f"has no {kind}"):
        sparring.load_model(run.path, **missing)


def test_runs_of_one_name_are_told_apart_by_their_paths(made: Run, run: Run) -> None:
    run.write_config(made.config_file.read_text())
    found = transfer_runs([made, run], {**CHEAP, "evaluation.samples": "10"})
    assert found["names"] == [str(made.path), str(run.path)]
    with pytest.raises(UsageError, match="is given twice"):
        transfer_runs([made, open_run(made.path)], {})
    with pytest.raises(UsageError, match="transfer needs two runs or more"):
        transfer_runs([made], {})


def test_the_figures_are_not_lost_where_they_cannot_be_kept(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    expected = evaluate_run(run, {})["robust_accuracy"]
    (run.path / "evaluation.json").unlink()
    (run.path / "evaluation.json").mkdir()
    assert evaluate_run(run, {})["robust_accuracy"] == expected
    assert "the result is not kept" in caplog.text and "evaluation.json: Is a directory" in caplog.text


def test_curves_go_on_with_what_is_kept_in_the_runs_folder(run: Run) -> None:
    few = {"evaluation.samples": "6", "evaluation.steps": "2", "evaluation.square_queries": "5"}
    found = curves_of_run(run, few)
    (kept,) = (run.path / "verdicts").glob("curves-*.jsonl")
    *lines, last = kept.read_text().splitlines(keepends=True)
    kept.write_text("".join(lines) + last[:20])
    assert curves_of_run(run, few, how=How(resume=True)) == found
    assert len(kept.read_text().splitlines()) == len(lines) + 2, "the damaged line was made again"


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (curves_of_run, "evaluation.step_size"),
        (corruptions_of_run, "evaluation.steps"),
        (corruptions_of_run, "evaluation.square_queries"),
        (evaluate_run, "evaluation.square_queries"),
    ],
)
def test_a_setting_that_a_command_has_no_use_for_is_refused(run: Run, command: Any, name: str) -> None:
    with pytest.raises(UsageError, match=f"--{name} has no effect here"):
        command(run, {name: "1"})


def test_the_smallest_perturbations_are_kept_in_the_runs_folder(run: Run) -> None:
    few = {"evaluation.samples": "6", "evaluation.batch_size": "6"}
    found = margins_of_run(run, few)
    assert found["norm"] == "linf" and len(found["sizes"]) == found["samples"] == 6
    assert (run.read_json("margins-linf.json") or {})["quantiles"] == found["quantiles"]
    assert found["epsilon"] == 0.05 and found["interval"][0] <= found["share_above_epsilon"] <= found["interval"][1]


@pytest.mark.parametrize(
    ("changes", "norm", "named"),
    [
        ({}, "l3", "--norm l3: choose one of linf, l2, l1"),
        ({"evaluation.steps": "5"}, None, "--evaluation.steps has no effect here"),
        ({"evaluation.attack": "autoattack"}, None, "--evaluation.attack has no effect here"),
        ({"attack.epsilon": "0.1"}, None, "--attack.epsilon cannot change here"),
    ],
)
def test_what_smallest_perturbations_do_not_take_is_refused(
    run: Run, changes: dict[str, str], norm: str | None, named: str
) -> None:
    with pytest.raises(UsageError, match=named):
        margins_of_run(run, changes, norm)
