"""Data pruning: what is dropped, by which losses, and that stops, crashes and rollbacks change nothing of it."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sparring.attacks import PGD, perturb
from sparring.commands import train as training
from sparring.commands.train import Result, train
from sparring.config import Config, config_of, from_tree, load
from sparring.data import batch
from sparring.errors import NonFinite, Overfitted, SparringError, UsageError
from sparring.observe.state import RunState
from sparring.randomness import generator
from sparring.runs import Run
from sparring.trainer import checkpoints
from sparring.trainer.experiment import build_experiment
from sparring.trainer.pruning import attacked_losses, kept_indices, nearly_gone
from sparring.trainer.session import Session
from tests.support.processes import epochs_of
from tests.support.runs import small, weights_of

METHODS = ("random", "low", "high", "low_high")
SHARDS, KEPT, KEPT_SHARDS = 15, 575, 6  # digits in batches of 100; of 1437 examples 60 % are dropped
TRAIN = {"epochs": 3, "max_steps": None, "batch_size": 100}
PRUNED: dict[str, Any] = {
    "train": TRAIN,
    "attack": {"steps": 2, "warmup_epochs": 1.5},
    "pruning": {"name": "low_high", "share": 0.6, "epoch": 1},
}


@given(
    losses=st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, float("inf")]) | st.floats(0, 9), min_size=2, max_size=40),
    share=st.floats(0.01, 0.99),
    name=st.sampled_from(METHODS),
    seed=st.integers(0, 3),
)
@settings(deadline=None)
def test_each_method_drops_the_tail_that_it_names(losses: list[float], share: float, name: str, seed: int) -> None:
    given = torch.tensor(losses, dtype=torch.float64)

    def decided() -> list[int]:
        of = None if name == "random" else given
        kept: list[int] = kept_indices(name, share, of, len(losses), generator(seed, "test")).tolist()
        return kept

    kept, dropped = decided(), round(share * len(losses))
    assert kept == sorted(set(kept)) and len(kept) == len(losses) - dropped
    assert kept == decided(), "the same key, the same choice"
    low = {"low": dropped, "high": 0, "low_high": dropped // 2}.get(name)
    if low is not None:  # whatever equal losses do, the losses that are kept are these
        assert sorted(losses[index] for index in kept) == sorted(losses)[low : len(losses) - (dropped - low)]


def test_equal_losses_are_not_dropped_by_their_position_but_by_the_seed() -> None:
    same = torch.zeros(1000)
    one, other = (kept_indices("low", 0.5, same, 1000, generator(seed, "test")) for seed in (0, 1))
    assert not torch.equal(one, other)
    for kept in (one, other):
        assert 200 < int((kept < 500).sum()) < 300


@pytest.mark.parametrize(("value", "name"), [(0, "epoch"), (0.0, "share"), (1.0, "share"), ("middle", "name")])
def test_settings_out_of_bounds_are_refused_by_name(value: Any, name: str) -> None:
    with pytest.raises(UsageError, match=f"pruning.{name}"):
        from_tree({"pruning": {name: value}})


def test_a_run_that_would_never_train_on_what_is_kept_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"pruning\.epoch"):
        train(small(tmp_path, engine="sync", pruning={"name": "random"}))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("loss", ["ce", "kl"])
def test_losses_are_those_of_the_attacked_examples_under_the_weights_as_they_are(loss: Any) -> None:
    config = small(Path("unused"), data={"limit": 50, "augment": "crop"}, train={"batch_size": 20, "seed": 3})
    dataset = build_experiment(config).training
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 10)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attack = PGD(0.2, steps=2, step_size=0.1, loss=loss)
    done: list[int] = []
    losses = attacked_losses(model, dataset, attack, epoch=1, batch_size=20, before_step=done.append)
    assert done == [0, 0, 20, 20, 40, 40]
    assert model.training and all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    model.eval().requires_grad_(False)
    expected = []
    for chunk in range(3):
        indices = torch.arange(20 * chunk, min(20 * chunk + 20, 50))
        x, y = batch(dataset, indices, augment="crop", seed=3, epoch=1)
        delta = perturb(model, x, y, attack, generator(3, "prune", 1, chunk))
        expected.append(cross_entropy(model(x + delta), y))
    torch.testing.assert_close(losses.double(), torch.cat(expected), rtol=1e-5, atol=1e-6)


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """-log softmax(logits)[y] in float64, [N]."""
    logits = logits.double()
    return logits.exp().sum(1).log() - logits[torch.arange(len(y)), y]


def decision(run: Run) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(run.kept.read_text())
    return read


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A synchronous run that nothing disturbs, with a checkpoint every five steps."""
    root = tmp_path_factory.mktemp("whole")
    return train(small(root, engine="sync", **PRUNED, checkpoint={"every_steps": 5, "keep": 9}))


@pytest.mark.parametrize(("engine", "name"), [*(("sync", name) for name in METHODS), ("simulated", "low_high")])
def test_a_pruned_run_trains_on_everything_first_and_then_on_what_it_says_it_kept(
    tmp_path: Path, engine: str, name: str
) -> None:
    groups = {**PRUNED, "pruning": {**PRUNED["pruning"], "name": name}}
    result = train(small(tmp_path, engine=engine, simulated={"staleness": 2}, **groups))
    summary, made = result.summary, decision(result.run)
    assert summary["steps"] == SHARDS + 2 * KEPT_SHARDS
    assert summary["examples"] == 1437 + 2 * KEPT
    assert summary["kept"] == len(made["indices"]) == KEPT
    assert made["indices"] == sorted(set(made["indices"])) and made["step"] == SHARDS
    assert (made["name"], made["share"], made["epoch"]) == (name, 0.6, 1)
    attacked = 0 if name == "random" else 1437
    assert made["gradients"] == 2 * attacked
    assert summary["gradients"] == 2 * (summary["examples"] + attacked)
    assert summary["seconds"] >= summary["pruning_seconds"] > 0
    shards = [SHARDS, KEPT_SHARDS, KEPT_SHARDS]
    assert epochs_of(result.run) == {epoch: Counter(range(count)) for epoch, count in enumerate(shards)}


def test_what_is_kept_is_decided_by_the_losses_of_the_weights_at_the_boundary(whole: Result) -> None:
    run = whole.run
    experiment = build_experiment(config_of(run))
    checkpoints.load_weights(run.checkpoints / f"step-{SHARDS:09d}", experiment.model)
    epsilon = 0.2 * (SHARDS + 1) / (SHARDS + KEPT_SHARDS / 2)  # warmed up over 1.5 epochs, the second a short one
    attack = PGD(epsilon, steps=2, step_size=2.5 * epsilon / 2)
    model = experiment.model.eval().requires_grad_(False)
    losses = []
    for chunk, indices in enumerate(torch.split(torch.arange(1437), 100)):
        x, y = batch(experiment.training, indices, augment="none", seed=0, epoch=1)
        delta = perturb(model, x, y, attack, generator(0, "prune", 1, chunk))
        losses.append(cross_entropy(model(x + delta), y))
    middle = torch.cat(losses).argsort()[431 : 1437 - 431].tolist()
    assert len(set(middle) ^ set(decision(run)["indices"])) <= 2, "but for rounding at the edges"


class Killed(Exception):
    """The run ends here, without a last checkpoint."""


def killed_after_the_decision(config: Config) -> Run:
    runs: list[Run] = []

    def show(state: RunState, workers: dict[str, dict[str, Any]]) -> None:
        if state.kept is not None:
            assert state.step == SHARDS
            raise Killed

    with pytest.raises(Killed):
        train(config, show, runs.append)
    return runs[0]


@pytest.mark.parametrize("engine", ["sync", "simulated"])
def test_a_crash_between_the_decision_and_its_first_step_changes_nothing(
    tmp_path: Path, engine: str, whole: Result
) -> None:
    groups = {"engine": engine, "simulated": {"staleness": 2}, **PRUNED}
    if engine == "simulated":
        whole = train(small(tmp_path / "whole", **groups))
    run = killed_after_the_decision(small(tmp_path / "killed", **groups))
    path, written = checkpoints.latest(run.checkpoints), run.kept.read_text()
    assert path is not None and checkpoints.load_state(path).step == SHARDS
    resumed = training.resume(run.path)
    assert run.kept.read_text() == written, "the decision is read, not made again"
    assert weights_of(resumed) == weights_of(whole)
    for figure in ("kept", "gradients", "examples", "steps"):
        assert resumed.summary[figure] == whole.summary[figure], figure
    assert resumed.summary["pruning_seconds"] == json.loads(written)["seconds"]


@pytest.mark.parametrize("at", ["while attacking", "after the decision"])
def test_a_stop_at_the_boundary_is_honoured_and_resumed_to_the_same_weights(
    tmp_path: Path, at: str, whole: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparring.trainer.recorder.REPORT_EVERY_S", 0.0)
    runs: list[Run] = []
    messages: list[str] = []

    def show(state: RunState, workers: dict[str, dict[str, Any]]) -> None:
        messages.append(state.message)
        attacking = state.message.startswith("pruning: 500 of 1437")
        if attacking if at == "while attacking" else state.kept is not None:
            runs[0].request_stop()

    stopped = train(small(tmp_path / "stopped", engine="sync", **PRUNED), show, runs.append)
    assert stopped.phase == "stopped" and stopped.summary["steps"] == SHARDS + (at != "while attacking")
    assert stopped.run.kept.exists() == (at != "while attacking")
    assert messages[-1] == "" and "pruning: 500 of 1437 training examples attacked" in messages
    resumed = training.resume(stopped.run.path)
    assert weights_of(resumed) == weights_of(whole)
    assert decision(resumed.run)["indices"] == decision(whole.run)["indices"]
    assert resumed.summary["gradients"] == whole.summary["gradients"]


def restored(run: Run) -> Session:
    session = Session(build_experiment(config_of(run)), run, torch.device("cpu"))
    session.restore()
    return session


def copied(run: Run, root: Path) -> Run:
    """The same run in another folder, to be harmed."""
    return Run(Path(shutil.copytree(run.path, root / "copy")))


def test_the_history_of_the_surviving_weights_decides(tmp_path: Path, whole: Result) -> None:
    run = copied(whole.run, tmp_path)
    kept = decision(run)["indices"]
    by_step = sorted(run.checkpoints.glob("step-*"))
    for path in reversed(by_step):  # as if the later ones were lost, one by one
        step, session = int(path.name.split("-")[1]), restored(run)
        pruning = session.plan.pruning
        assert pruning is not None and run.kept.exists() == (step >= SHARDS)
        if step >= SHARDS:
            assert session.pruner.undecided is None and pruning.kept is not None and pruning.kept.tolist() == kept
        else:
            assert session.pruner.undecided == 1 and session.state.kept is None
        path.rename(path.with_name(f"lost-{path.name}"))
    assert restored(run).pruner.undecided == 1


def test_a_rollback_to_the_beginning_decides_again(tmp_path: Path) -> None:
    run = killed_after_the_decision(small(tmp_path, engine="sync", **PRUNED))
    session = restored(run)
    for path in run.checkpoints.glob("step-*"):
        path.rename(path.with_name(f"lost-{path.name}"))
    assert session.roll_back(NonFinite("loss nan.")) is None
    assert session.pruner.undecided == 1 and session.state.kept is None and not run.kept.exists()


def test_a_fall_after_the_decision_goes_back_no_further_than_to_the_weights_that_decided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparring.trainer.recorder.REPORT_EVERY_S", 0.0)
    guard = {"overfitting": "rollback", "overfitting_every": 10, "overfitting_fall": 0.99, "overfitting_steps": 3}
    runs: list[Run] = []
    written: list[str] = []

    def show(state: RunState, workers: dict[str, dict[str, Any]]) -> None:
        if state.step == SHARDS + 2 and not written:
            written.append(runs[0].kept.read_text())
            raise Overfitted("a fall.")

    result = train(small(tmp_path, engine="sync", **PRUNED, guard=guard), show, runs.append)
    assert result.run.kept.read_text() == written[0]
    assert result.summary["overfittings"] == 1 and result.summary["kept"] == KEPT
    steps = [json.loads(line)["step"] for line in result.run.history.read_text().splitlines()]
    assert steps[SHARDS + 1 : SHARDS + 4] == [SHARDS + 2, SHARDS + 1, SHARDS + 2], "back to the boundary, and on"
    assert epochs_of(result.run) == {0: Counter(range(SHARDS)), 1: Counter(range(6)), 2: Counter(range(6))}


def test_free_is_pruned_between_two_batches(tmp_path: Path) -> None:
    free = {"train": {**TRAIN, "epochs": 6, "replays": 2}, "attack": {"name": "fgsm", "warmup_epochs": 0}}
    result = train(small(tmp_path, **{**PRUNED, "engine": "sync", **free}))
    assert result.summary["steps"] == 2 * (SHARDS + 2 * KEPT_SHARDS)
    assert result.summary["examples"] == 2 * (1437 + 2 * KEPT)
    assert result.summary["gradients"] == result.summary["examples"] + 1437


def test_free_counts_passes_over_the_data(tmp_path: Path) -> None:
    free = {"train": {**TRAIN, "epochs": 4, "replays": 2}, "attack": {"name": "fgsm", "warmup_epochs": 0}}
    groups = {**PRUNED, "engine": "sync", **free, "pruning": {"name": "low", "epoch": 2}}
    with pytest.raises(UsageError, match=r"pruning.epoch = 2 of 2 epochs"):
        train(small(tmp_path, **groups))


@pytest.mark.parametrize("name", METHODS)
def test_weights_that_make_no_numbers_of_an_example_do_not_decide(tmp_path: Path, name: str) -> None:
    groups = {**PRUNED, "pruning": {**PRUNED["pruning"], "name": name}, "model": {"name": "tests.support.fragile:make"}}
    run = training.make_run(small(tmp_path, engine="sync", **groups))
    session = restored(run)
    session.learner.model.load_state_dict({"linear.weight": torch.full((10, 64), 11.0), "linear.bias": torch.zeros(10)})
    if name == "random":
        assert session.pruner.decide(lambda done: True) is not None
        return
    with pytest.raises(NonFinite, match="1437 training examples"):
        session.pruner.decide(lambda done: True)
    assert not run.kept.exists()


def test_a_resume_without_or_with_another_kept_json_is_refused(tmp_path: Path, whole: Result) -> None:
    run = copied(whole.run, tmp_path)
    written = decision(run)
    made = {name: value for name, value in written.items() if name != "digest"}  # as older versions wrote it
    run.kept.write_text(json.dumps(made))
    assert restored(run).pruner.decision is not None
    missing = next(index for index in range(1, written["indices"][-1]) if index not in written["indices"])
    other = sorted({*written["indices"][1:], missing})
    for content, said in (
        (json.dumps({**written, "indices": other}), r"is damaged \(it was altered after it was written, by its digest"),
        (json.dumps({**written, "digest": "1"}), r"is damaged \(it was altered"),
        (json.dumps({**made, "digfst": written["digest"]}), "is damaged"),
        ("[1]", "is damaged"),
        (None, "is gone"),
        ("{", "is damaged"),
        (json.dumps({**made, "indices": [7] * len(made["indices"])}), r"is damaged \(its indices do not rise"),
        (json.dumps({**made, "indices": [-1, *made["indices"][1:]]}), r"is damaged \(its indices do not rise"),
        (json.dumps({**made, "indices": [*made["indices"][:-1], 99999]}), r"is damaged \(its indices do not rise"),
        (json.dumps({**made, "indices": None}), r"is damaged \(its indices are not whole numbers"),
        (json.dumps({**made, "step": "3"}), r"is damaged \(one of its numbers is none"),
        (json.dumps({**made, "share": 0.5}), "share = 0.5"),
        (json.dumps({**made, "fingerprint": "other"}), "training set other"),
        (json.dumps({**made, "indices": made["indices"][1:]}), "keeps 574 examples"),
    ):
        run.kept.unlink(missing_ok=True)
        if content is not None:
            run.kept.write_text(content)
        with pytest.raises(SparringError, match=said):
            restored(run)


@pytest.mark.parametrize("recipe", ["mnist-pruned", "cifar10-pruned"])
def test_a_recipe_reaches_its_pruned_epochs(tmp_path: Path, recipe: str) -> None:
    path = Path(__file__).parents[2] / "recipes" / f"{recipe}.toml"
    paper = load(path)
    epoch = paper.pruning.epoch
    changes = {
        "engine": "sync",
        "run.root": str(tmp_path),
        "data.name": "digits",
        "data.limit": "50",
        "model.name": "digits-cnn",
        "train.batch_size": "10",
        "train.epochs": str(epoch + 1),
        "evaluation.attack": "pgd",
        "evaluation.steps": "1",
        "evaluation.restarts": "1",
        "evaluation.samples": "4",
    }
    summary = train(load(path, changes)).summary
    kept = 50 - round(50 * paper.pruning.share)
    assert summary["kept"] == kept and summary["examples"] == 50 * epoch + kept


def test_a_class_that_loses_nearly_all_of_its_examples_is_named() -> None:
    """Half of 40 examples is kept: of class 2, which has 20, no more than 0 of the 10 that it would keep on average."""
    labels = torch.tensor([0] * 10 + [1] * 10 + [2] * 20)
    assert nearly_gone(labels, torch.arange(20)) == [
        "Pruning has left class 2 0 of 20 examples: no model can learn it from so few."
    ]
    assert nearly_gone(labels, torch.arange(1, 21)) == []
    assert nearly_gone(labels, torch.arange(0, 40, 2)) == []
