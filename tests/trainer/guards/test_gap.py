"""The gap between fresh and stale: what it is, when it is measured, and by how much a shard's gap counts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from sparring.attacks import WarmStart, perturbed
from sparring.commands.train import train
from sparring.config import new_run
from sparring.queue.messages import Controls, Key, Shard
from sparring.trainer.experiment import build_experiment
from sparring.trainer.guards.gap import Gap, measure
from sparring.trainer.learner import Learner
from sparring.trainer.session import Session
from tests.support.runs import small
from tests.support.sessions import session_in
from tests.support.shards import shard_of


def test_the_gap_is_fresh_minus_stale_under_the_present_weights(tmp_path: Path) -> None:
    config = small(tmp_path, engine="sync", attack={"warmup_epochs": 0})
    experiment = build_experiment(config)
    session = Session(experiment, new_run(config), torch.device("cpu"))
    key = Key(0, 0, 0)
    shard = shard_of(experiment, key, Controls(0.2), 0)
    same = measure(session.learner, shard)
    assert same is not None and same.accuracy == 0 and same.loss == pytest.approx(0, abs=1e-6)
    assert same.gradients == config.attack.steps * 64
    for number in range(1, 9):
        stale = shard_of(experiment, Key(0, number, 0), Controls(0.2), 0)
        session.learner.learn(session.learner.batch([stale]), 0)
    x, y = session.learner.clean(shard)
    whole = measure(session.learner, shard)
    fresh = shard_of(experiment, key, Controls(0.2), 8, session.learner.model)
    model = session.learner.model.eval()
    with torch.no_grad():
        losses = [F.cross_entropy(model(perturbed(x, one.delta)), y).item() for one in (fresh, shard)]
    assert whole is not None and whole.loss == pytest.approx(losses[0] - losses[1], rel=1e-4)
    assert whole.loss > 0, "what was made for the old weights is weaker"


@pytest.mark.parametrize(
    "groups",
    [
        {"allocator": {"name": "bullettrain"}, "objective": {"name": "trades"}},
        {"attack": {"start": "last", "warmup_epochs": 0}},
        {"attack": {"restarts": 3, "warmup_epochs": 0}},
    ],
    ids=["bullettrain, trades", "warm starts", "restarts"],
)
def test_what_is_not_stale_has_no_gap_whatever_is_spared_or_kept(tmp_path: Path, groups: dict[str, Any]) -> None:
    result = train(
        small(
            tmp_path,
            engine="simulated",
            train={"epochs": 3, "max_steps": 69 if "allocator" in groups else 12},
            optimizer={"lr": 0.003},
            **{"attack": {"warmup_epochs": 0}, **groups},
            guard={"staleness": True, "staleness_every": 1, "staleness_threshold": 1e-6},
        )
    )
    lines = [json.loads(line) for line in result.run.metrics.read_text().splitlines()]
    gaps = [line["fresh_minus_stale_loss"] for line in lines if line["fresh_minus_stale_loss"] is not None]
    assert gaps and max(map(abs, gaps)) < 1e-5 and result.summary["staleness_decisions"] == {}
    assert "allocator" not in groups or result.summary["allocated"]["robust"] > 0


@pytest.mark.parametrize(("attack", "steps"), [({"name": "n-fgsm", "noise": 2.0}, 2), ({"name": "pgd", "steps": 1}, 4)])
def test_after_a_guard_has_changed_the_attack_the_gap_and_a_refresh_are_those_of_the_new_attack(
    tmp_path: Path, attack: dict[str, Any], steps: int
) -> None:
    """Within ε = 0.1, not within the 0.3 of N-FGSM; the guard's PGD makes steps of 2.5·ε/steps."""
    session = session_in(tmp_path, engine="sync", attack={"warmup_epochs": 0, "epsilon": 0.1, **attack})
    learner = session.learner
    shard = shard_of(session.experiment, Key(0, 0, 0), Controls(0.1, 0.0, steps), 0)
    gap = measure(learner, shard)
    assert gap is not None and gap.accuracy == 0 and gap.loss == pytest.approx(0, abs=1e-6)
    assert gap.gradients == steps * 64 == shard.gradients

    x, y = learner.clean(shard)
    model = learner.model.double().eval()
    point = (x + shard.delta).double().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(point), y), point)
    delta = (shard.delta + 2.5 * 0.1 / steps * gradient.sign()).clamp(-0.1, 0.1)
    learner.model.float()
    refreshed = learner.refresh(shard, 1)
    assert ((refreshed.delta - ((x + delta).clamp(0, 1) - x)).abs() > 1e-6).double().mean() < 0.002
    assert refreshed.delta.abs().max() <= 0.1 + 1e-6 and refreshed.gradients == shard.gradients + 64


def test_a_refresh_makes_one_attempt_whatever_the_restarts(tmp_path: Path) -> None:
    session = session_in(tmp_path, engine="sync", attack={"warmup_epochs": 0, "restarts": 3})
    shard = shard_of(session.experiment, Key(0, 0, 0), Controls(0.2), 0)
    passes = list[int]()
    session.learner.model.register_forward_hook(lambda module, inputs, logits: passes.append(len(logits)))
    assert session.learner.refresh(shard, 2).gradients == shard.gradients + 2 * 64
    assert passes == [64, 64]


@pytest.mark.parametrize(("weight", "zero", "not_finite"), [(0.0, 64, 2), (torch.nan, 1, 64), (1.0, 1, 2)])
def test_gradients_without_use_in_a_refresh_are_counted(
    tmp_path: Path, weight: float, zero: int, not_finite: int
) -> None:
    session = session_in(tmp_path, engine="sync", attack={"warmup_epochs": 0})
    made = shard_of(session.experiment, Key(0, 0, 0), Controls(0.2), 0)
    with torch.no_grad():
        list(session.learner.model.parameters())[-2].mul_(weight)
    found = session.learner.refresh(replace(made, zero_gradients=1, non_finite_gradients=2), 1)
    assert (found.zero_gradients, found.non_finite_gradients) == (zero, not_finite)


def test_it_is_measured_when_it_is_due_and_acted_on_only_for_the_guard(tmp_path: Path) -> None:
    groups = {"staleness": {"gap_every": 2}, "guard": {"staleness": True, "staleness_every": 3}}
    session = session_in(tmp_path, engine="simulated", simulated={"staleness": 4}, **groups)
    shards = [shard_of(session.experiment, Key(0, 0, 0), Controls(0.2), 0)]
    measured = []
    for step in range(1, 7):
        session.learner.step = step
        checked = session.gap.check(shards)
        if checked is not None:
            measured.append((step, checked.acts))
    assert measured == [(2, False), (3, True), (4, False), (6, True)]


def test_the_oldest_shard_is_measured_and_its_gap_counts_by_its_weight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = {"staleness": {"age_half_life": 8.0}, "guard": {"staleness": True, "staleness_every": 1}}
    session = session_in(tmp_path, engine="simulated", simulated={"staleness": 8}, **groups)
    shards = [
        shard_of(session.experiment, Key(0, number, 0), Controls(0.2), version) for number, version in ((0, 8), (1, 0))
    ]
    session.learner.step, asked = 8, list[float]()
    measured = list[Key]()

    def gap(learner: Learner, shard: Shard, start: WarmStart | None) -> Gap:
        measured.append(shard.key)
        return Gap(-0.3, 0.0, 5)

    monkeypatch.setattr("sparring.trainer.guards.gap.measure", gap)
    monkeypatch.setattr(session.staleness, "decide", asked.append)
    session.watch_staleness(shards)
    assert measured == [Key(0, 1, 0)] and asked == [pytest.approx(0.3 * 2 / 3)]
    assert session.state.fresh_minus_stale == -0.3 and session.state.gradients == 5


@pytest.mark.parametrize("name", ["n-fgsm", "fgsm-rs"])
def test_after_a_guard_has_changed_the_attack_gap_and_refresh_stay_in_the_ball_of_pgd(
    tmp_path: Path, name: str
) -> None:
    """N-FGSM's perturbations have a radius of up to 0.3, those of the PGD that replaces it 0.1."""
    session = session_in(tmp_path, attack={"name": name, "epsilon": 0.1, "warmup_epochs": 0})
    learner = session.learner
    shard = shard_of(session.experiment, Key(0, 0, 0), Controls(0.1, pgd_steps=5), 0)
    assert shard.attack.steps == 5 and shard.radius == pytest.approx(0.1)
    gap = measure(learner, shard)
    assert gap is not None and gap.accuracy == 0 and gap.loss == pytest.approx(0, abs=1e-6)
    assert gap.gradients == 5 * 64
    refreshed = learner.refresh(shard, 3).delta
    assert refreshed.abs().max() <= 0.1 + 1e-6 and not refreshed.equal(shard.delta)
