"""Everything that decides what is trained next comes back from a checkpoint, whoever owns it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.utils import parameters_to_vector

from sparring.errors import NonFinite, SparringError
from sparring.trainer import checkpoints
from sparring.trainer.session import Session
from tests.support.sessions import session_in, weights_of

HELPED: dict[str, Any] = {"objective": {"name": "tests.support.helped:Helped"}}


def disturb(session: Session) -> None:
    """Let every owner hold something else than at the beginning."""
    learner = session.learner
    learner.step, learner.robust_share, learner.rate_scale, learner.pgd_until = 7, 0.25, 0.125, 11
    session.overfitting.overfittings, session.non_finite.rollbacks = 3, 2
    session.staleness.level, session.heldout.best = 2, 0.5
    with torch.no_grad():
        for network in learner.networks.values():
            for parameter in network.parameters():
                parameter.add_(1.0)


def held(session: Session) -> dict[str, Any]:
    learner = session.learner
    owned = {name: owner.state() for name, owner in session.training.owners.items() if name != "starts"}
    return {"step": learner.step, "F_R": learner.robust_share, "rate": learner.rate_scale, **owned}


GROUPS: dict[str, Any] = {
    "data": {"holdout": 100},
    "train": {"ema": 0.9},
    "guard": {"staleness": True},
    "simulated": {"staleness": 8},
    "engine": "simulated",
    **HELPED,
}


def test_a_checkpoint_keeps_what_every_owner_holds_and_every_network(tmp_path: Path) -> None:
    session = session_in(tmp_path, **GROUPS)
    disturb(session)
    session.save()
    again = session_in(tmp_path, session.run, **GROUPS)
    assert again.restore() is not None
    assert held(again) == held(session)
    assert set(again.learner.networks) == {"model", "ema", "helper"}
    for name, network in again.learner.networks.items():
        there = session.learner.networks[name].state_dict()
        assert all(torch.equal(tensor, there[key]) for key, tensor in network.state_dict().items()), name


class Count:
    """An engine's own state."""

    def __init__(self) -> None:
        self.count = 0

    def state(self) -> dict[str, Any]:
        return {"count": self.count}

    def restore(self, state: dict[str, Any] | None) -> None:
        self.count = 0 if state is None else state["count"]


def test_an_engines_own_state_is_kept_with_the_rest(tmp_path: Path) -> None:
    session, own = session_in(tmp_path), Count()
    own.count = 5
    session.training.register("mine", own, None)
    assert own.count == 0, "a run that begins"
    own.count = 3
    session.save()
    again, other = session_in(tmp_path, session.run), Count()
    again.training.register("mine", other, again.restore())
    assert other.count == 3


@pytest.mark.parametrize("given", [False, True])
def test_a_restart_begins_with_the_weights_that_the_run_started_from(tmp_path: Path, given: bool) -> None:
    session = session_in(tmp_path, **HELPED)
    if given:
        weights = {name: tensor + 0.5 for name, tensor in session.learner.model.state_dict().items()}
        session.run.initial.mkdir()
        save_file(weights, session.run.initial / "model.safetensors")
        session = session_in(tmp_path, session.run, **HELPED)
    helper = session.learner.networks["helper"]
    before, helper_before = weights_of(session), [each.detach().clone() for each in helper.parameters()]
    session.restore()
    disturb(session)
    assert session.roll_back(NonFinite("loss nan")) is None
    assert torch.equal(weights_of(session), before)
    assert all(torch.equal(now, then) for now, then in zip(helper.parameters(), helper_before, strict=True))
    assert session.learner.step == session.state.step == 0 and session.heldout.best == -1.0
    assert session.state.rollbacks == 3 and session.overfitting.overfittings == 3, "what has happened stays counted"
    assert session.learner.rate_scale == 0.125 * session.config.guard.rate_factor


def test_a_frozen_helper_keeps_the_weights_of_the_runs_start(tmp_path: Path) -> None:
    groups = {"objective": {"name": "tests.support.helped:Frozen"}}
    first = session_in(tmp_path, **groups)
    again = session_in(tmp_path, first.run, **groups)
    helpers = [session.experiment.helper for session in (first, again)]
    one, other = (parameters_to_vector(helper.network.parameters()) for helper in helpers if helper is not None)
    assert torch.equal(one, other)
    assert "helper" not in first.learner.networks, "it is written once, not with every checkpoint"


def test_weights_of_the_start_that_have_changed_are_refused(tmp_path: Path) -> None:
    session = session_in(tmp_path)
    initial, model = session.run.initial, session.learner.model
    checkpoints.save_initial(initial, model)
    for name in ("helper.safetensors", "helper.safetensors"):  # also where it is written again
        checkpoints.save_initial(initial, model, name)
    assert {path.name for path in initial.iterdir()} == {"digests.json", "helper.safetensors", "model.safetensors"}
    assert torch.equal(weights_of(session_in(tmp_path, session.run)), weights_of(session))
    content = (initial / "model.safetensors").read_bytes()
    (initial / "model.safetensors").write_bytes(content[:-2] + bytes([content[-2] ^ 0x20, content[-1]]))
    with pytest.raises(SparringError, match=r"model\.safetensors changed after .* Put back a copy"):
        session_in(tmp_path, session.run)
    (initial / "model.safetensors").write_bytes(content)
    (initial / "digests.json").write_text("{")
    with pytest.raises(SparringError, match=r"digests\.json is cut short or damaged .* Put back a copy"):
        session_in(tmp_path, session.run)
    (initial / "digests.json").unlink()
    session_in(tmp_path, session.run)  # as earlier versions left it


def test_a_frozen_helper_that_has_changed_is_refused(tmp_path: Path) -> None:
    groups = {"objective": {"name": "tests.support.helped:Frozen"}}
    run = session_in(tmp_path, **groups).run
    file = run.initial / "helper.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-2] + bytes([content[-2] ^ 0x20, content[-1]]))
    with pytest.raises(SparringError, match=r"helper\.safetensors changed after"):
        session_in(tmp_path, run, **groups)


def test_a_rollback_returns_to_the_last_planned_checkpoint_or_another_where_that_is_damaged(tmp_path: Path) -> None:
    session = session_in(tmp_path, checkpoint={"keep": 1})
    training, folder = session.training, session.run.checkpoints
    for step, planned in ((4, True), (6, False)):
        session.learner.step = step
        session.save(planned=planned)
    again = session_in(tmp_path, session.run, checkpoint={"keep": 1})
    found = again.restore()
    assert found is not None and (found.step, again.training.planned) == (6, 4)
    back = again.training.load_planned()
    assert back is not None and back.step == again.learner.step == 4
    (folder / "step-000000004" / "model.safetensors").write_bytes(b"")
    other = training.load_planned()
    assert other is not None and other.step == 6
    training.planned = None
    assert training.load_planned() is None and not list(folder.glob("step-*")), "to the beginning"
