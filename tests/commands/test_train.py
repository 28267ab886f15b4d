"""Runs that start from given weights, mix in extra images and grow them: the same in every engine, and on resume."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import sparring
from sparring.commands import train as training
from sparring.commands.checks import check
from sparring.commands.control import status_from_folder
from sparring.commands.train import resume, train
from sparring.config import Config, DataSettings, ModelSettings, config_of
from sparring.data import load as load_data
from sparring.errors import SparringError, UsageError, run_of
from sparring.models import build
from sparring.observe.state import Heartbeats, RunState
from sparring.runs import Run
from sparring.trainer import checkpoints
from sparring.trainer.experiment import build_experiment
from sparring.trainer.session import Session
from tests.support import fragile, pooled
from tests.support.disk import files_of_at_most
from tests.support.runs import Place, small, weights_of

EXTRA, REAL, BATCH, PER_TICKET = 30, 40, 8, 3


def growing(root: Path, start: Path, **groups: Any) -> Config:
    """Two epochs of 8 tickets with 5 real and 3 extra examples each, first at 6 then at 8 pixels."""
    random = np.random.default_rng(0)
    np.savez(root / "extra.npz", images=random.integers(0, 256, (EXTRA, 8, 8), np.uint8), labels=np.arange(EXTRA) % 10)
    data = {
        "limit": REAL,
        "extra": f"npz:{root / 'extra.npz'}",
        "extra_fraction": 0.4,
        "size": 8,
        "phases": [{"until": 0.5, "size": 6}],
        "augment": "resized_crop_flip",
    }
    steps = {"epochs": 2, "max_steps": None, "batch_size": BATCH}
    model = {"name": "tests.support.pooled:make", "checkpoint": str(start)}
    return small(root, data=data, train=steps, model=model, **groups)


def test_a_run_begins_with_a_line_about_its_data_and_ends_with_what_is_odd_in_them(tmp_path: Path) -> None:
    random, labels = torch.Generator().manual_seed(0), torch.tensor([0, 2] * 8)
    training, test = (torch.randint(0, 256, (16, 1, 8, 8), generator=random, dtype=torch.uint8) for _ in range(2))
    said: list[str] = []

    def show(state: RunState, workers: Heartbeats) -> None:
        said.append(state.data)

    config = small(tmp_path, engine="sync", train={"max_steps": 1})
    result = train(config, show, train_data=(training, labels), test_data=(test, labels % 2 + labels // 2 + 1))
    line = "16 training images, 16 test images; 1 x 8 x 8, 8 bits, pixels 0 to 1; 3 classes (0: 8, 1: 0, 2: 8)"
    doubt = "1 of 3 classes have no training example: no model can learn them (label 1)."
    assert said[0] == line and doubt in result.summary["warnings"]
    assert all(text in result.run.log.read_text() for text in (line, doubt))


def test_a_run_that_attacks_nothing_says_so_beside_its_figures(tmp_path: Path) -> None:
    nothing = {"name": "bullettrain", "boundary_steps": 0, "robust_steps": 0, "gamma": 0.5}
    config = small(tmp_path, engine="sync", train={"max_steps": 1}, allocator=nothing, optimizer={"beta1": 0.8})
    result = train(config, progress=False)
    (doubt,) = [each for each in result.summary["warnings"] if "no example is attacked" in each]
    assert doubt in result.run.log.read_text()


def weights_file(path: Path) -> dict[str, Tensor]:
    """Weights that no seed of ours gives."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(99)
        weights = dict(pooled.make((1, 8, 8), 10).state_dict())
    save_file(weights, path)
    return weights


@pytest.mark.ray
def test_workers_and_trainer_do_not_need_the_file_that_the_run_started_from(tmp_path: Path, shared_ray: Place) -> None:
    exact = {"max_staleness": 0, "depth": 0, "publish_every": 1}
    weights_file(tmp_path / "start.safetensors")
    sync = train(growing(tmp_path, tmp_path / "start.safetensors", engine="sync"))
    config = growing(tmp_path, tmp_path / "start.safetensors", engine="ray", staleness=exact, queue={"wire": "exact"})

    def remove(run: Run) -> None:
        (tmp_path / "start.safetensors").unlink()

    ray = train(shared_ray(config), on_run=remove)
    assert ray.summary["worker_shards"] == ray.summary["steps"] == 16
    assert ray.summary["examples"] == 2 * (REAL + 8 * PER_TICKET)
    assert weights_of(ray) == weights_of(sync)


def test_the_first_step_begins_with_the_weights_of_the_file_and_a_resume_does_not_read_them(tmp_path: Path) -> None:
    start = weights_file(tmp_path / "start.safetensors")
    still = {"optimizer": {"name": "sgd", "lr": 1e-30}, "checkpoint": {"every_steps": 1}}
    runs: list[Run] = []
    config = growing(tmp_path, tmp_path / "start.safetensors", engine="sync", **still)
    stopped = train(config, lambda state, workers: runs[0].request_stop(), runs.append)
    assert stopped.phase == "stopped"
    (tmp_path / "start.safetensors").unlink()
    resumed = training.resume(stopped.run.path)
    assert resumed.phase == "finished"
    path = checkpoints.latest(resumed.run.checkpoints)
    assert path is not None
    assert all(torch.equal(tensor, start[name]) for name, tensor in load_file(path / "model.safetensors").items())


def test_a_trainer_of_another_process_begins_with_the_weights_kept_in_the_runs_folder(tmp_path: Path) -> None:
    start = weights_file(tmp_path / "start.safetensors")
    runs: list[Run] = []
    train(growing(tmp_path, tmp_path / "start.safetensors", engine="sync"), on_run=runs.append)
    (tmp_path / "start.safetensors").unlink()
    experiment = build_experiment(config_of(runs[0]))
    assert not all(torch.equal(tensor, start[name]) for name, tensor in experiment.model.state_dict().items())
    session = Session(experiment, runs[0], torch.device("cpu"))
    assert all(torch.equal(tensor, start[name]) for name, tensor in session.learner.model.state_dict().items())


def test_a_rollback_to_the_beginning_is_one_to_the_given_weights(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(99)
        start = dict(fragile.make((1, 8, 8), 10).state_dict())
    save_file(start, tmp_path / "start.safetensors")
    result = train(
        small(
            tmp_path,
            engine="sync",
            model={"name": "tests.support.fragile:make", "checkpoint": str(tmp_path / "start.safetensors")},
            optimizer={"name": "sgd", "lr": 100.0},
            guard={"rate_factor": 1e-30},
        )
    )
    assert result.summary["rollbacks"] == 1
    path = checkpoints.latest(result.run.checkpoints)
    assert path is not None
    for name, tensor in load_file(path / "model.safetensors").items():
        torch.testing.assert_close(tensor, start[name], rtol=0, atol=1e-6)


def test_what_cannot_be_started_from_is_refused_before_a_folder_is_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"model\.checkpoint = .*nowhere.* is not a file"):
        train(small(tmp_path / "runs", engine="sync", model={"checkpoint": str(tmp_path / "nowhere")}))
    with pytest.raises(UsageError, match=r"model\.pretrained = true and model\.checkpoint"):
        train(small(tmp_path / "runs", engine="sync", model={"pretrained": True, "checkpoint": str(tmp_path)}))
    with pytest.raises(UsageError, match=r"model\.pretrained = true with model\.name = 'digits-cnn'"):
        train(small(tmp_path / "runs", engine="sync", model={"pretrained": True}))
    assert not (tmp_path / "runs").exists()


def test_a_model_that_cannot_take_the_size_of_a_phase_is_refused(tmp_path: Path) -> None:
    data = {"size": 8, "phases": [{"until": 0.5, "size": 6}]}
    with pytest.raises(UsageError, match=r"cannot take images of shape \(1, 6, 6\)"):
        train(small(tmp_path / "runs", engine="sync", data=data))


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_a_share_that_leaves_no_extra_or_no_real_examples_is_refused(tmp_path: Path, share: float) -> None:
    weights_file(tmp_path / "start.safetensors")
    config = growing(tmp_path, tmp_path / "start.safetensors", engine="sync")
    data = config.data.model_copy(update={"extra_fraction": share})
    with pytest.raises(UsageError, match=r"data\.extra_fraction = .* at least one of each is needed"):
        train(config.model_copy(update={"data": data}))


def test_paths_of_weights_and_extra_images_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights_file(tmp_path / "start.safetensors")
    config = growing(tmp_path, Path("start.safetensors"), engine="sync")
    data = config.data.model_copy(update={"extra": "npz:extra.npz"})
    monkeypatch.chdir(tmp_path)
    made = config_of(training.make_run(config.model_copy(update={"data": data})))
    assert made.model.checkpoint == tmp_path / "start.safetensors"
    assert made.data.extra == f"npz:{tmp_path / 'extra.npz'}"


# Live objects: a model and data passed from Python.


SYNC: dict[str, Any] = {"engine": "sync", "train": {"max_steps": 6, "epochs": 1, "batch_size": 32}}


def arrays(split: Literal["train", "test"]) -> tuple[Tensor, Tensor]:
    """The digits as a pair (images, labels)."""
    data = load_data(DataSettings(), split)
    return data.images(torch.arange(len(data))), data.labels


def network(seed: int = 0) -> nn.Module:
    """The recipe's own, as a user might have made it."""
    return build(ModelSettings(), (1, 8, 8), 10, seed)


def stopped_at_once(config: Config, **objects: Any) -> Run:
    """A run that ends after its first report."""
    runs: list[Run] = []
    result = train(config, lambda state, workers: runs[0].request_stop(), runs.append, **objects)
    assert result.phase == "stopped" and 0 < result.summary["steps"] < 6
    return result.run


def test_live_objects_train_as_the_same_things_by_name_and_the_model_passed_stays_as_it_is(tmp_path: Path) -> None:
    by_name = train(small(tmp_path / "named", **SYNC), progress=False)
    model = network().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    live = train(
        small(tmp_path / "live", **SYNC),
        model=model,
        train_data=arrays("train"),
        test_data=DataLoader(TensorDataset(*arrays("test")), batch_size=7),
        progress=False,
    )
    assert weights_of(live) == weights_of(by_name) and live.summary["examples"] == 6 * 32
    assert live.summary["robust_accuracy"] == by_name.summary["robust_accuracy"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not model.training and all(each.grad is None for each in model.parameters())


def test_the_trained_model_is_that_of_the_last_checkpoint_in_eval_mode(tmp_path: Path) -> None:
    model = network().train()
    config, training, test = small(tmp_path, **SYNC), arrays("train"), arrays("test")
    result = train(config, model=model, train_data=training, test_data=test, progress=False)
    path = checkpoints.latest(result.run.checkpoints)
    assert path is not None
    expected = load_file(path / "model.safetensors")
    for trained in (result.load_model(), sparring.load_model(str(result.run.path), model=network(seed=9))):
        assert not trained.training and trained is not model
        assert all(torch.equal(tensor, expected[name]) for name, tensor in trained.state_dict().items())
    assert model.training and not torch.equal(model.state_dict()["9.bias"], expected["9.bias"])
    with pytest.raises(UsageError, match=r"model\.name = 'python:Sequential': .* from Python: model=…"):
        sparring.load_model(result.run.path)
    with pytest.raises(SparringError, match="another model"):
        sparring.load_model(result.run.path, model=nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))


def test_a_run_by_name_is_loaded_without_its_data(tmp_path: Path) -> None:
    training, test = arrays("train"), arrays("test")
    result = train(small(tmp_path, **SYNC), train_data=training, test_data=test, progress=False)
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(sparring.load_model(result.run.path)(x), result.load_model()(x))


def test_a_resume_needs_the_objects_and_reaches_the_same_weights_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparring.trainer.recorder.REPORT_EVERY_S", 0.0)
    objects: dict[str, Any] = {"train_data": arrays("train"), "test_data": arrays("test")}
    whole = train(small(tmp_path / "whole", **SYNC), model=network(), **objects, progress=False)
    run = stopped_at_once(small(tmp_path / "stopped", **SYNC), model=network(), **objects)
    before = sorted(path.name for path in run.path.rglob("*"))
    with pytest.raises(UsageError, match=r"model\.name = 'python:Sequential': .* Pass it again"):
        sparring.resume(run.path, **objects)
    with pytest.raises(UsageError, match=r"data\.name = 'python:tuple': .* Pass it again"):
        sparring.resume(run.path, model=network())
    assert sorted(path.name for path in run.path.rglob("*")) == before
    resumed = sparring.resume(str(run.path), model=network(seed=9), **objects, progress=False)
    assert resumed.phase == "finished" and weights_of(resumed) == weights_of(whole)
    assert not resumed.load_model().training


def test_paths_may_be_strings_and_overrides_numbers_flags_lists_and_paths(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('engine = "sync"\n[train]\nmax_steps = 9\n[attack]\nsteps = 2\n')
    overrides = {
        "train.max_steps": 2,
        "attack.epsilon": 0.1,
        "metrics.enabled": False,
        "schedule.milestones": [0.25, 0.5],
        "run.root": tmp_path,
        "evaluation.samples": "20",
        "evaluation.steps": 1,
        "seed": 3,
    }
    result = sparring.train(str(recipe), overrides=overrides, progress=False)
    config = config_of(result.run)
    assert (result.summary["steps"], config.attack.steps, config.attack.epsilon) == (2, 2, 0.1)
    assert config.schedule.milestones == (0.25, 0.5) and not config.metrics.enabled and config.train.seed == 3
    assert result.run.path.parent == tmp_path and result.summary["samples"] == 20
    with pytest.raises(UsageError, match=r"train\.max_step: no such setting; the nearest is train\.max_steps"):
        sparring.train(recipe, overrides={"train.max_step": 2})
    with pytest.raises(UsageError, match=r"Pass settings by name as overrides="):
        sparring.train({"train.epochs": 2})  # type: ignore[arg-type]


def test_progress_is_shown_on_standard_error_unless_it_is_switched_off(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train(small(tmp_path / "silent", **SYNC), progress=False)
    assert capfd.readouterr() == ("", "")
    train(small(tmp_path / "shown", **SYNC))
    output, shown = capfd.readouterr()
    assert output == "" and "digits: " in shown and "step 6/6" in shown


def test_what_cannot_be_trained_is_refused_before_a_folder_is_made(tmp_path: Path) -> None:
    config = small(tmp_path / "runs", **SYNC)
    images, labels = arrays("train")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"model": nn.Linear(3, 10)}, r"model.* cannot take images of .*\(1, 8, 8\)"),
        ({"train_data": (images, labels)}, "test_data is missing"),
        ({"train_data": (images, labels), "test_data": (images[:, :, :6, :6], labels)}, r"test images are \(1, 6, 6\)"),
    ]
    for objects, reason in cases:
        with pytest.raises(UsageError, match=reason):
            train(config, **objects)
    for wrong, kind in ((5, "int"), ({"train.epochs": 2}, "dict")):
        with pytest.raises(UsageError, match=f"config is a {kind}; it must be a configuration or the path of a recipe"):
            train(wrong)  # type: ignore[arg-type]
    assert not (tmp_path / "runs").exists()


@pytest.mark.ray
@pytest.mark.parametrize("engine", ["sync", "ray"])
def test_a_run_that_has_finished_is_made_longer_with_the_weights_of_its_end(
    tmp_path: Path, engine: str, shared_ray: Place
) -> None:
    few: dict[str, Any] = {"train": {"epochs": 1, "max_steps": None, "batch_size": 500}, "workers": {"count": 1}}
    few["attack"] = {"warmup": 0.5, "warmup_epochs": None}
    first = train(shared_ray(small(tmp_path, engine=engine, **few)), progress=False)
    with pytest.raises(UsageError, match=r"give --train\.epochs more than 1"):
        resume(first.run.path, progress=False)
    with pytest.raises(UsageError, match=r"train\.max_steps = 2 on resume: it can only grow"):
        resume(resume(first.run.path, {"train.epochs": 2}, progress=False).run.path, {"train.max_steps": 2})
    history = [json.loads(line) for line in first.run.history.read_text().splitlines()]
    assert [line["epoch"] for line in history] == [0, 0, 0, 1, 1, 1]
    assert config_of(first.run).attack.warmup_epochs == 0.5, "ε does not begin to grow anew"
    assert first.run.read_json("phases.json") == [{"from_step": 3, "changes": {"train.epochs": [1, 2]}}]
    assert (first.run.read_json("summary.json") or {})["examples"] == 2 * 1437


def test_a_phase_begins_where_a_checkpoint_that_is_recovered_ends(tmp_path: Path) -> None:
    """A process that was killed had written its last checkpoint whole, but not yet named it."""
    short = {"epochs": 1, "max_steps": None, "batch_size": 500}
    run = train(small(tmp_path, engine="sync", train=short, checkpoint={"every_steps": 2}), progress=False).run
    (run.checkpoints / "step-000000003").rename(run.checkpoints / ".partial-1-step-000000003")
    resume(run.path, {"train.epochs": 2}, progress=False)
    assert run.read_json("phases.json") == [{"from_step": 3, "changes": {"train.epochs": [1, 2]}}]


def test_a_resume_that_another_one_overtakes_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other makes the run longer and ends, while this one is between its checks and the lock."""
    run = train(
        small(tmp_path, engine="sync", train={"epochs": 1, "max_steps": None, "batch_size": 500}), progress=False
    ).run

    def slow_check(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr("sparring.commands.train.check", check)
        resume(run.path, {"train.epochs": 2}, progress=False)
        return check(*arguments, **options)

    monkeypatch.setattr("sparring.commands.train.check", slow_check)
    with pytest.raises(UsageError, match=r"was resumed with other settings by another process meanwhile"):
        resume(run.path, {"train.epochs": 3}, progress=False)
    phases = run.read_json("phases.json")
    assert isinstance(phases, list) and [each["changes"] for each in phases] == [{"train.epochs": [1, 2]}]
    assert config_of(run).train.epochs == 2


def test_a_run_whose_disk_is_full_has_failed_and_goes_on_once_there_is_room(tmp_path: Path) -> None:
    config = small(tmp_path, engine="sync", checkpoint={"every_steps": 4}, train={"max_steps": 6})
    with files_of_at_most(30_000), pytest.raises(SparringError, match=r"File too large\. Free space there") as failed:
        train(config, progress=False)
    assert failed.value.run is not None
    run = Run(failed.value.run)
    state = run.read_json("state.json") or {}
    assert state["phase"] == "failed" and state["message"] == str(failed.value)
    assert checkpoints.latest(run.checkpoints) is None
    assert resume(run.path, progress=False).phase == "finished"


def test_a_resume_that_fails_at_once_leaves_what_is_known_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = stopped_at_once(small(tmp_path, **SYNC))
    before = run.read_json("state.json") or {}

    def full(*arguments: object, **more: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("sparring.commands.train._begin", full)
        with pytest.raises(SparringError, match="No space left on device"):
            resume(run.path, progress=False)
    after = run.read_json("state.json") or {}
    assert after["phase"] == "failed" and (after["step"], after["examples"]) == (before["step"], before["examples"])
    assert after["step"] > 0


@pytest.mark.parametrize("passed", [False, True])
def test_a_run_that_failed_before_its_first_weights_were_written_starts_from_them_on_a_resume(
    tmp_path: Path, passed: bool
) -> None:
    start, file = build(ModelSettings(name="digits-cnn"), (1, 8, 8), 10, seed=99), tmp_path / "start.safetensors"
    save_file(start.state_dict(), file)
    objects: dict[str, Any] = {"model": start} if passed else {}
    model = {"name": "digits-cnn", "checkpoint": None if passed else str(file)}
    groups: dict[str, Any] = {"engine": "sync", "train": {"max_steps": 2}, "model": model}
    whole = train(small(tmp_path / "whole", **groups), **objects, progress=False)
    with files_of_at_most(20_000), pytest.raises(SparringError, match=r"File too large\. Free space there") as failed:
        train(small(tmp_path / "failed", **groups), **objects, progress=False)
    assert failed.value.run is not None
    run = Run(failed.value.run)
    assert not list(run.checkpoints.glob("step-*")) and not (run.initial / "model.safetensors").exists()
    assert weights_of(resume(run.path, **objects, progress=False)) == weights_of(whole)


def test_an_interrupt_before_the_training_is_recorded(tmp_path: Path) -> None:
    def interrupt(run: Run) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as interrupted:
        train(small(tmp_path, engine="sync", run={"name": "begun"}), on_run=interrupt, progress=False)
    run = Run(tmp_path / "begun")
    assert run_of(interrupted.value) == run.path and (run.read_json("state.json") or {})["phase"] == "interrupted"
    assert resume(run.path, progress=False).phase == "finished"


def test_a_file_that_cannot_be_written_ends_the_run_as_failed(tmp_path: Path) -> None:
    def block(run: Run) -> None:
        run.metrics.mkdir()

    with pytest.raises(SparringError, match=r"metrics\.jsonl: Is a directory\. Check that it is there"):
        train(small(tmp_path, engine="sync", run={"name": "blocked"}), on_run=block, progress=False)
    assert (Run(tmp_path / "blocked").read_json("state.json") or {})["phase"] == "failed"


def test_any_other_error_ends_the_run_as_failed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any, **named: Any) -> None:
        raise ZeroDivisionError("of the user's own code")

    monkeypatch.setattr(Session, "after_step", broken)
    with pytest.raises(ZeroDivisionError):
        train(small(tmp_path, engine="sync", run={"name": "broken"}), progress=False)
    state = Run(tmp_path / "broken").read_json("state.json") or {}
    assert state["phase"] == "failed" and state["message"] == "ZeroDivisionError: of the user's own code"


class Killed(BaseException):
    """In the place of a kill: nothing is written after it."""


def test_a_run_whose_lengthening_dies_at_its_start_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train(small(tmp_path, engine="sync", train={"max_steps": 3}), progress=False).run

    def killed(*_: object) -> None:
        raise Killed

    for _ in range(2):  # the second time the same, and so recorded once
        with monkeypatch.context() as patched, pytest.raises(Killed):
            patched.setattr(training, "_in_this_process", killed)
            resume(run.path, {"train.max_steps": "5"}, progress=False)
    (run.path / ".state.json.abcdefgh").write_text("{")
    result = resume(run.path, progress=False)
    assert (result.phase, result.summary["steps"]) == ("finished", 5)
    assert run.read_json("phases.json") == [{"from_step": 3, "changes": {"train.max_steps": [3, 5]}}]
    assert not [*run.path.glob(".state.json.*")]


def test_a_run_that_dies_before_its_engine_is_there_says_how_far_it_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(training, "_in_this_process", killed)
        train(small(tmp_path, engine="sync", run={"name": "dead"}), progress=False)
    run = Run(tmp_path / "dead")
    state = run.read_object("state.json")
    assert (state["phase"], state["engine"], state["dataset"]) == ("starting", "sync", "digits")
    assert state["message"].endswith("engine sync is starting")
    assert status_from_folder(run)["phase"] == "died"
    assert resume(run.path, progress=False).phase == "finished"


@pytest.mark.parametrize("fault", [Killed(), SparringError("disk full")])
def test_a_run_without_its_last_figures_is_not_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: BaseException
) -> None:
    write = Run.write_json

    def failing(self: Run, name: str, content: object) -> None:
        if name == "summary.json":
            raise fault
        write(self, name, content)

    with monkeypatch.context() as patched, pytest.raises(type(fault)):
        patched.setattr(Run, "write_json", failing)
        train(small(tmp_path, engine="sync", run={"name": "a"}), progress=False)
    assert (Run(tmp_path / "a").read_json("state.json") or {})["phase"] != "finished"
    result = resume(tmp_path / "a", progress=False)
    assert result.phase == "finished" and result.summary["robust_accuracy"] is not None
    assert result.run.read_json("summary.json") == json.loads(json.dumps(result.summary))
