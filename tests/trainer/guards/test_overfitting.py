"""The overfitting guard: what it measures, when it falls back, and to what."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from sparring.attacks import PGD
from sparring.commands.combinations import check_combinations
from sparring.config import from_tree, new_run
from sparring.engines import sync
from sparring.errors import Overfitted, UsageError
from sparring.models import build
from sparring.trainer import checkpoints
from sparring.trainer.experiment import build_experiment
from sparring.trainer.guards.overfitting import pgd_accuracy
from sparring.trainer.session import Session
from tests.support.runs import small

EVERY_STEP = {"overfitting": "rollback", "overfitting_every": 1, "overfitting_steps": 5, "overfitting_for": 6}


def session_of(root: Path, **groups: Any) -> Session:
    """A session that has made its steps with the synchronous engine."""
    config = small(root, engine="sync", **groups)
    experiment = build_experiment(config)
    session = Session(experiment, new_run(config), torch.device("cpu"))
    sync.run(session, experiment, None)
    return session


def ruin(session: Session) -> None:
    """Weights that classify nothing right; a step later."""
    other = build(session.config.model, (1, 8, 8), 10, seed=77)
    session.learner.model.load_state_dict(other.state_dict())
    session.learner.step += 1


def test_pgd_accuracy_is_the_share_that_survives_five_steps() -> None:
    class Threshold(torch.nn.Module):
        """Class 1 where the pixel is above ½; the logits are linear, so that PGD-5 finds the way across."""

        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(3.0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            margin = self.scale * (x.flatten(1)[:, :1] - 0.5)
            return torch.cat([-margin, margin], 1)

    x = torch.tensor([0.05, 0.35, 0.45, 0.55, 0.65, 0.95]).view(6, 1, 1, 1)
    y = torch.tensor([0, 0, 0, 1, 1, 0])
    # At ε = 0.2 only 0.05 stays on its side: the last is wrong without an attack.
    assert pgd_accuracy(Threshold(), x, y, PGD(0.2, steps=5), seed=0, step=0) == pytest.approx(1 / 6)
    assert pgd_accuracy(Threshold(), x, y, PGD(0.1, steps=5), seed=0, step=0) == pytest.approx(3 / 6)


def test_a_fall_goes_back_to_the_last_good_weights_and_a_stronger_attack(tmp_path: Path) -> None:
    session = session_of(tmp_path, train={"max_steps": 40, "epochs": 4}, guard=EVERY_STEP)
    good = session.overfitting.good
    assert good is not None and session.state.guard_accuracy is not None
    assert session.state.guard_accuracy > 0.3, "there is something to lose"
    weights, gradients = copy.deepcopy(good.model.state_dict()), session.state.gradients
    ruin(session)
    with pytest.raises(Overfitted, match=r"catastrophic overfitting \(guard.overfitting_fall = 0.2\)") as caught:
        session.guard_against_overfitting()
    checkpoint = session.roll_back(caught.value)
    assert checkpoint is not None and checkpoint.step == session.learner.step == good.checkpoint.step
    assert all(torch.equal(weights[name], value) for name, value in session.learner.model.state_dict().items())
    assert session.learner.controls().pgd_steps == 5
    assert session.state.gradients == gradients + 2 * 5 * 64, "what the guard costs is counted"
    assert session.state.overfittings == 1 and session.state.pgd_until == session.learner.step + 6
    session.learner.step = session.state.pgd_until
    assert session.learner.controls().pgd_steps == 0, "for a while only"


def test_checkpoints_of_what_is_undone_are_deleted(tmp_path: Path) -> None:
    session = session_of(tmp_path, train={"max_steps": 40, "epochs": 4}, guard=EVERY_STEP)
    ruin(session)
    session.save()
    assert checkpoints.load_state(last_of(session)).step == 41
    with pytest.raises(Overfitted) as caught:
        session.guard_against_overfitting()
    session.roll_back(caught.value)
    assert checkpoints.load_state(last_of(session)).step == 40
    again = Session(build_experiment(session.config), session.run, torch.device("cpu"))
    assert again.restore() is not None, "as after a crash"
    assert again.state.overfittings == 1 and again.learner.controls().pgd_steps == 5


def last_of(session: Session) -> Path:
    path = checkpoints.latest(session.run.checkpoints)
    assert path is not None
    return path


def test_a_second_fall_takes_twice_as_long(tmp_path: Path) -> None:
    session = session_of(tmp_path, train={"max_steps": 40, "epochs": 4}, guard=EVERY_STEP)
    batch = session.overfitting.batch
    for expected in (6, 12):
        session.overfitting.batch = batch
        ruin(session)
        with pytest.raises(Overfitted) as caught:
            session.guard_against_overfitting()
        session.roll_back(caught.value)
        assert session.state.pgd_until == session.learner.step + expected


def test_weights_that_have_lost_a_little_are_not_the_new_measure(tmp_path: Path) -> None:
    session = session_of(tmp_path, train={"max_steps": 40, "epochs": 4}, guard={**EVERY_STEP, "overfitting_fall": 0.99})
    good = session.overfitting.good
    ruin(session)
    session.guard_against_overfitting()
    assert session.overfitting.good is good


def again(session: Session) -> Session:
    """The session of a process that goes on with the run."""
    made = Session(build_experiment(session.config), session.run, torch.device("cpu"))
    assert made.restore() is not None
    return made


def test_good_weights_and_the_count_of_falls_survive_the_process(tmp_path: Path) -> None:
    """Where the checkpoint is of other weights, as of a stop; no state holds that of earlier good weights."""
    session = session_of(tmp_path, train={"max_steps": 40, "epochs": 4}, guard=EVERY_STEP)
    batch, first = session.overfitting.batch, session.overfitting.good
    ruin(session)
    with pytest.raises(Overfitted) as caught:
        session.guard_against_overfitting()
    session.roll_back(caught.value)
    session.overfitting.batch = batch
    ruin(session)
    session.save(planned=False)
    resumed, good = again(session), session.overfitting.good
    guard = resumed.overfitting
    assert first is not None and good is not None and guard.good is not None
    assert (guard.falls, guard.batch, resumed.learner.step) == (1, batch, 41)
    assert guard.good.checkpoint.step == good.checkpoint.step == 40
    weights = first.model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in guard.good.model.state_dict().items())
    assert guard.good.checkpoint.owners["overfitting"].keys() == {"overfittings", "pgd_until"}
    with pytest.raises(Overfitted):
        resumed.guard_against_overfitting()


def test_a_checkpoint_of_the_good_weights_does_not_hold_them_twice(tmp_path: Path) -> None:
    session = session_of(tmp_path, train={"max_steps": 4}, guard=EVERY_STEP)
    state = checkpoints.load_state(last_of(session)).owners["overfitting"]
    assert (state["good"], state["is_good"]) == (None, True)
    good = again(session).overfitting.good
    assert good is not None and good.checkpoint.step == 4


def test_the_checkpoint_of_an_older_version_is_good(tmp_path: Path) -> None:
    session = session_of(tmp_path, train={"max_steps": 4}, guard=EVERY_STEP)
    session.overfitting.state = lambda: {"overfittings": 2, "pgd_until": 9}  # type: ignore[method-assign]
    session.save()
    guard = again(session).overfitting
    assert guard.good is not None and (guard.overfittings, guard.learner.pgd_until) == (2, 9)


def test_a_guard_that_would_weaken_the_attack_is_refused() -> None:
    guard = {"overfitting": "rollback", "overfitting_steps": 2}
    with pytest.raises(UsageError, match=r"guard.overfitting_steps = 2.*already has 8. Set it to at least 9"):
        check_combinations(from_tree({"guard": guard, "attack": {"steps": 8}}))
    check_combinations(from_tree({"guard": guard, "attack": {"name": "fgsm-rs"}}))
