"""The staleness guard: what it measures, what it does about it, and in which order."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sparring.commands.train import train
from sparring.config import from_tree, new_run
from sparring.objectives import Batch, mart, pgd_at, trades
from sparring.queue.messages import Controls, Key
from sparring.trainer.experiment import build_experiment
from sparring.trainer.guards.staleness import Remedies, StalenessGuard, age_weights, ladder
from sparring.trainer.session import Session
from tests.support.runs import Place, small
from tests.support.shards import shard_of

GUARD = {"staleness": True, "staleness_threshold": 0.1, "staleness_patience": 2}


def rungs(tree: dict[str, Any]) -> list[tuple[float | None, int | str, int, int]]:
    return [(r.half_life, r.refresh, r.publish_every, r.depth) for r in ladder(from_tree(tree))]


def test_remedies_come_cheapest_first_and_end_with_the_synchronous_loop() -> None:
    staleness = {"max_staleness": 64, "publish_every": 4, "depth": 6}
    assert rungs({"staleness": staleness, "train": {"shards_per_step": 2}}) == [
        (None, 0, 4, 6),
        (8.0, 0, 4, 6),
        (8.0, 1, 4, 6),
        (8.0, 2, 4, 6),
        (8.0, 2, 2, 6),
        (8.0, 2, 1, 6),
        (8.0, 2, 1, 3),
        (8.0, 2, 1, 1),
        (8.0, 2, 1, 0),
    ]


def test_what_the_recipe_has_already_is_no_remedy() -> None:
    staleness = {"age_half_life": 4.0, "refresh": 2, "publish_every": 1, "depth": 1}
    assert rungs({"staleness": staleness, "train": {"shards_per_step": 2}}) == [(4.0, 2, 1, 1), (4.0, 2, 1, 0)]
    assert rungs({"staleness": {"refresh": "auto", "depth": 0}})[0][1] == "auto"


def test_age_weights_are_no_remedy_where_a_step_is_one_shard() -> None:
    tree = {"staleness": {"depth": 1}, "train": {"shards_per_step": 1}}
    assert rungs(tree)[:2] == [(None, 0, 1, 1), (None, 1, 1, 1)]


def test_in_the_simulated_engine_the_staleness_itself_is_halved() -> None:
    tree = {"engine": "simulated", "simulated": {"staleness": 5}}
    assert rungs(tree) == [(None, 0, 1, 5), (None, 1, 1, 5), (None, 2, 1, 5), *((None, 2, 1, s) for s in (2, 1, 0))]


def test_the_guard_climbs_where_the_gap_is_wide_and_comes_down_when_it_stays_closed() -> None:
    guard = StalenessGuard([Remedies(None, 0, 1, depth) for depth in (2, 1, 0)], from_tree({"guard": GUARD}).guard)
    reported = [
        (guard.decide(gap), guard.level) for gap in (0.09, 0.11, 0.2, 0.5, 0.04, 0.06, 0.04, 0.04, -0.3, 0.0, 0.0)
    ]
    assert reported == [
        (None, 0),
        ("tightened", 1),
        ("tightened", 2),
        (None, 2),  # the last rung
        (None, 2),
        (None, 2),  # between half of the threshold and all of it: neither, and the count begins anew
        (None, 2),
        ("relaxed", 1),
        (None, 1),
        ("relaxed", 0),
        (None, 0),
    ]


def test_a_shard_counts_half_after_each_half_life_and_the_mean_weight_is_one() -> None:
    weights = age_weights([0, 8, 16], [1, 2, 1], 8.0)
    assert weights is not None
    torch.testing.assert_close(weights / weights[0], torch.tensor([1.0, 0.5, 0.5, 0.25]))
    assert weights.mean().item() == pytest.approx(1)
    assert age_weights([3, 3], [2, 2], 8.0) is None and age_weights([0, 9], [2, 2], None) is None
    far = age_weights([100_000, 100_008], [1, 1], 8.0)
    assert far is not None and far.tolist() == pytest.approx([4 / 3, 2 / 3])


def test_weights_are_those_of_the_examples_losses() -> None:
    torch.manual_seed(0)
    clean, adv, labels = torch.randn(5, 3).double(), torch.randn(5, 3).double(), torch.randint(0, 3, (5,))
    weights = torch.tensor([2.0, 0.5, 1.0, 1.25, 0.25], dtype=torch.float64)
    alone = [(clean[i : i + 1], adv[i : i + 1], labels[i : i + 1]) for i in range(5)]
    for whole, each in (
        (pgd_at(adv, labels, weights=weights), [pgd_at(a, y) for _, a, y in alone]),
        (trades(clean, adv, labels, 6.0, weights=weights), [trades(c, a, y, 6.0) for c, a, y in alone]),
        (mart(clean, adv, labels, 5.0, weights=weights), [mart(c, a, y, 5.0) for c, a, y in alone]),
    ):
        torch.testing.assert_close(whole, (weights * torch.stack(each)).mean(), rtol=1e-12, atol=1e-12)


def test_a_step_weighs_its_shards_as_the_remedies_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small(tmp_path, engine="sync", attack={"warmup_epochs": 0})
    experiment = build_experiment(config)
    session = Session(experiment, new_run(config), torch.device("cpu"))
    keys = [Key(0, number, 0) for number in (0, 1)]
    shards = [shard_of(experiment, key, Controls(0.2), version) for key, version in zip(keys, (0, 8), strict=True)]
    seen: list[torch.Tensor | None] = []
    update = session.learner.update

    def spied(batch: Batch, epoch: int) -> Any:
        seen.append(batch.weights)
        return update(batch, epoch)

    monkeypatch.setattr(session.learner, "update", spied)
    for half_life in (None, 8.0):
        session.staleness.rungs = (replace(session.staleness.remedies, half_life=half_life),)
        session.learner.restore(8, session.learner.optimizer.state_dict())
        session.learn(shards)
    assert seen[0] is None
    assert seen[1] is not None and seen[1].tolist() == pytest.approx([2 / 3] * 64 + [4 / 3] * 64)


@pytest.mark.parametrize("engine", ["simulated", pytest.param("ray", marks=pytest.mark.ray)])
def test_a_run_whose_stale_shards_are_weak_is_made_synchronous_and_says_so(
    tmp_path: Path, engine: str, shared_ray: Place
) -> None:
    """The least gap is too wide for this guard, and it never finds the gap closed for long enough."""
    config = small(
        tmp_path,
        engine=engine,
        train={"epochs": 2, "max_steps": 40},
        optimizer={"lr": 0.01},
        schedule={"name": "constant"},
        attack={"warmup_epochs": 0},
        simulated={"staleness": 8},
        staleness={"max_staleness": 8, "depth": 4, "publish_every": 4, "exchange": False},
        guard={"staleness": True, "staleness_every": 1, "staleness_threshold": 1e-6, "staleness_patience": 1000},
    )
    result = train(shared_ray(config))
    assert result.phase == "finished"
    assert result.summary["staleness_decisions"].get("tightened", 0) >= 2
    assert result.summary["staleness_level"] == result.summary["staleness_decisions"]["tightened"]
    lines = [json.loads(line) for line in result.run.metrics.read_text().splitlines()]
    levels = [line["staleness_level"] for line in lines]
    assert levels == sorted(levels) and lines[0]["fresh_minus_stale_loss"] is not None
    if engine == "simulated":
        versions = [json.loads(line) for line in result.run.history.read_text().splitlines()]
        assert versions[-1]["step"] - 1 - versions[-1]["versions"][0] < 8, "the last shards were fresher"
    log = result.run.log if engine == "simulated" else result.run.path / "logs" / "trainer.log"
    assert log.read_text().count("staleness guard tightened") == result.summary["staleness_level"]


def test_a_resumed_run_keeps_its_remedies(tmp_path: Path) -> None:
    config = small(tmp_path, engine="simulated", simulated={"staleness": 8}, guard=GUARD)
    run = new_run(config)
    before = Session(build_experiment(config), run, torch.device("cpu"))
    before.staleness.level = 3
    before.save()
    after = Session(build_experiment(config), run, torch.device("cpu"))
    assert after.restore() is not None and after.staleness.level == after.state.staleness_level == 3
