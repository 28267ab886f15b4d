"""The trainer's step on AugMix's views: which are passed, what is refused, what F_R follows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparring.commands.train import train
from sparring.config import from_tree
from sparring.errors import SparringError, UsageError
from sparring.queue.messages import Key, Shard
from sparring.runs import Run
from sparring.trainer import checkpoints
from sparring.trainer.experiment import build_experiment
from sparring.trainer.learner import Learner
from tests.support.runs import small
from tests.support.shards import shard_of

METHOD: dict[str, Any] = {"attack": {"name": "augmix"}, "objective": {"name": "augmix"}}
BULLETTRAIN = {"name": "bullettrain", "robust_steps": 0}
SIZE = 32


def learner_with(**groups: Any) -> Learner:
    tree = {**METHOD, "train": {"batch_size": SIZE}}
    for name, values in groups.items():
        tree[name] = {**tree.get(name, {}), **values}
    return Learner(build_experiment(from_tree(tree)), torch.device("cpu"))


def shard_for(learner: Learner, number: int = 0) -> Shard:
    return shard_of(learner.experiment, Key(0, number, 0), learner.controls(), 0, learner.model)


def passed(learner: Learner, shards: list[Shard]) -> list[Tensor]:
    """What the model was given in a step on `shards`."""
    seen: list[Tensor] = []
    handle = learner.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    learner.learn(learner.batch(shards), 0)
    handle.remove()
    return seen


def with_some_clean(learner: Learner, shard: Shard, clean: int) -> Shard:
    """The shard with its first examples' views replaced by their images."""
    assert shard.views is not None
    x, _ = learner.clean(shard)
    views = shard.views.clone()
    views[:, :clean] = (x[:clean] * 255).round().to(torch.uint8)
    return replace(shard, views=views)


@pytest.mark.parametrize(
    ("groups", "left_out"),
    [({}, 0), ({"objective": {"passes": "single_pass"}}, 20), ({"allocator": BULLETTRAIN}, 20)],
    ids=["reference", "single_pass", "bullettrain"],
)
def test_a_step_is_one_pass_over_clean_images_and_the_views_that_its_method_needs(
    groups: dict[str, Any], left_out: int
) -> None:
    learner = learner_with(**groups)
    shard = with_some_clean(learner, shard_for(learner_with()), 20)
    (seen,) = passed(learner, [shard])
    x, _ = learner.clean(shard)
    assert shard.views is not None
    first, second = shard.views[:, left_out:].float() / 255
    assert torch.equal(seen, torch.cat([x, first, second]))


def test_weight_perturbation_wraps_it_as_any_objective() -> None:
    learner = learner_with(objective={"awp_gamma": 0.01})
    uphill, step = passed(learner, [shard_for(learner_with())])
    assert len(step) == 3 * SIZE and torch.equal(uphill, step)


def test_the_shards_of_a_step_are_put_together_view_by_view() -> None:
    learner = learner_with(train={"shards_per_step": 2})
    shards = [shard_for(learner, number) for number in (0, 1)]
    batch = learner.batch(shards)
    x, views, labels = batch.x, batch.views, batch.labels
    assert views is not None
    assert views.shape == (2, *x.shape) and len(labels) == 2 * SIZE
    for at, shard in enumerate(shards):
        assert shard.views is not None
        assert torch.equal(views[:, at * SIZE : (at + 1) * SIZE], shard.views.float() / 255)


def test_shards_without_views_or_with_those_of_other_images_are_refused() -> None:
    learner = learner_with()
    shard = shard_for(learner)
    assert shard.views is not None
    for views in (None, shard.views[..., :4], shard.views[:, :5]):
        with pytest.raises(SparringError, match="has no views of images of shape"):
            learner.batch([replace(shard, views=views)])


def test_the_robust_share_follows_the_share_of_which_both_views_are_right() -> None:
    learner = learner_with(allocator=BULLETTRAIN)
    shard = shard_for(learner_with())
    result = learner.learn(learner.batch([shard]), 0)
    assert 0 < result.correct < SIZE
    assert learner.robust_share == pytest.approx(0.1 * 0.8 * result.correct / SIZE)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"objective": {"name": "pgd-at"}}, r"attack\.name = 'augmix' with objective\.name = 'pgd-at'"),
    ({"attack": {"name": "pgd"}}, r"attack\.name = 'pgd' with objective\.name = 'augmix'"),
    ({"attack": {"restarts": 2}}, r"attack\.restarts = 2 .* Set it to 1"),
    ({"attack": {"start": "zero"}}, r"attack\.start = 'zero' .* Set it to auto"),
    ({"attack": {"loss": "kl"}}, r"attack\.loss = 'kl'"),
    ({"attack": {"step_size": 0.1}}, r"attack\.step_size = 0\.1 .* Set it to none"),
    ({"objective": {"label_smoothing": 0.1}}, r"objective\.label_smoothing = 0\.1"),
    ({"staleness": {"refresh": 1}}, r"staleness\.refresh = 1"),
    ({"staleness": {"refresh": "auto"}}, r"staleness\.refresh = 'auto'"),
    ({"staleness": {"age_half_life": 4.0}}, r"staleness\.age_half_life = 4\.0 .* Set it to none"),
    ({"guard": {"staleness": True}}, r"guard\.staleness = True .* Set it to false"),
    ({"guard": {"overfitting": "stop"}}, r"guard\.overfitting = 'stop' .* Set it to off"),
    ({"allocator": {"name": "oracle"}}, r"allocator\.name = 'oracle' .* none or bullettrain"),
    ({"allocator": {"name": "bullettrain"}}, r"allocator\.robust_steps = 2 .* Set it to 0 or 1"),
    ({"allocator": {**BULLETTRAIN, "boundary_steps": 7}}, r"allocator\.boundary_steps = 7"),
    ({"allocator": {**BULLETTRAIN, "outlier_steps": 3}}, r"allocator\.outlier_steps = 3"),
]


@pytest.mark.parametrize(("groups", "why"), REFUSED, ids=[why for _, why in REFUSED])
def test_what_needs_an_attack_is_refused_by_name_before_there_is_a_folder(
    tmp_path: Path, groups: dict[str, Any], why: str
) -> None:
    method = {name: {**METHOD.get(name, {}), **groups.get(name, {})} for name in METHOD | groups}
    with pytest.raises(UsageError, match=why):
        train(small(tmp_path, engine="sync", **method))
    assert not list(tmp_path.iterdir())


def test_augmix_learns_and_the_best_checkpoint_is_that_of_its_views(tmp_path: Path) -> None:
    result = train(
        small(
            tmp_path,
            engine="simulated",
            train={"epochs": 4, "max_steps": None, "evaluate_every_epochs": 2, "evaluate_samples": 100},
            data={"holdout": 100, "limit": 800},
            staleness={"gap_every": 1},
            **METHOD,
        )
    )
    summary = result.summary
    assert summary["clean_accuracy"] > 0.7
    assert summary["gradients"] == 0 and summary["fresh_minus_stale"] is None
    state = Run(result.run.path).read_json("state.json") or {}
    assert state["epsilon"] == 0 and state["heldout_samples"] == 100
    assert 0.3 < state["robust_accuracy"] <= state["clean_accuracy"] + 0.05
    assert checkpoints.best(result.run.checkpoints) is not None
