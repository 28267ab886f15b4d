"""The steps of a session: what is left to make, when it ends, and what counts as made."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sparring.errors import NonFinite
from sparring.trainer.session import Session
from sparring.workers.attackers import produce_all
from tests.support.sessions import session_in, weights_of


def make(session: Session, count: int | None = None, resumed: bool = False) -> list[tuple[int, ...]]:
    """Make steps as engine sync does, `count` of them; the tickets of each."""
    made, learner = [], session.learner
    for step in session.steps(session.restore() if resumed else None):
        shards = produce_all(session.tasks(step), learner.context, learner.controls(), learner.step)
        session.learn(shards)
        made.append(tuple(key.number for key in step.keys))
        if len(made) == count:
            session.ask_to_stop("stopped")
    return made


def test_its_steps_are_those_of_the_plan_and_end_with_the_last_of_the_run(tmp_path: Path) -> None:
    session = session_in(tmp_path, train={"max_steps": 5, "shards_per_step": 2})
    assert make(session) == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]
    assert session.finish() == "finished" and session.state.phase == "evaluating"


def test_a_stop_ends_after_the_present_step_which_is_done_to_its_end(tmp_path: Path) -> None:
    session = session_in(tmp_path)
    assert len(make(session, count=3)) == 3
    assert session.finish() == "stopped"
    again = session_in(tmp_path, session.run)
    assert make(again, count=1, resumed=True) == [(3,)], "a resume goes on with the next one"


def test_a_body_that_fails_has_trained_on_nothing(tmp_path: Path) -> None:
    session = session_in(tmp_path)
    make(session, count=2)
    session.stop_reason = None
    for _ in session.steps(session.training.checkpoint()):
        with pytest.raises(NonFinite):
            raise NonFinite("loss nan")
        break
    assert session.training.ledger()["done"] == {"0": [0, 1]}
    assert session.state.step == session.learner.step == 2


def test_the_open_form_of_a_step_is_learn(tmp_path: Path) -> None:
    closed, opened = session_in(tmp_path / "closed"), session_in(tmp_path / "opened")
    make(closed, count=3)
    learner = opened.learner
    for step in opened.steps(None):
        shards = produce_all(opened.tasks(step), learner.context, learner.controls(), learner.step)
        with opened.update(shards) as update:
            loss, correct = update.forward()
            update.backward(loss, correct)
            update.optimizer_step()
        if learner.step == 3:
            break
    assert torch.equal(weights_of(closed), weights_of(opened))
    assert (opened.state.step, opened.state.examples) == (3, 3 * 64)


def test_training_state_is_shown_where_it_is_owned_by_somebody_else(tmp_path: Path) -> None:
    session = session_in(tmp_path, guard={"staleness": True}, simulated={"staleness": 8}, engine="simulated")
    session.staleness.level, session.learner.pgd_until = 2, 7
    session.non_finite.rollbacks = session.overfitting.overfittings = 1
    make(session, count=1)
    state = session.state
    assert (state.staleness_level, state.pgd_until, state.rollbacks, state.overfittings) == (2, 7, 1, 1)
