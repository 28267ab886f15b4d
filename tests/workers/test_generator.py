"""A task and weights become a shard: what each example gets, on which weights it ends, what the shard says of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from sparring.allocators.bullettrain import BOUNDARY, OUTLIER, ROBUST, classify, signed_variance
from sparring.attacks import PGD, Attack, AttackLoss, WarmStart, frozen, perturb
from sparring.data import TrainingSet
from sparring.errors import SparringError
from sparring.queue.codec import decode_shard, encode_shard
from sparring.queue.messages import Controls, Shard
from sparring.randomness import generator
from sparring.workers.generator import ShrinkingBatch, begin, prepare_task, produce
from sparring.workers.task import AttackContext
from sparring.workers.views import Augmentation
from tests.support.batches import seeded
from tests.support.digits import context_of, recipe, task
from tests.support.momentum import Momentum

INDICES = tuple(range(40))
TASK = task(0, INDICES, worker="w")
NOW = Controls(0.1, 0.4)
BULLETTRAIN = {"name": "bullettrain"}


def context(model: nn.Module, digits: TrainingSet, **groups: Any) -> AttackContext:
    return context_of(recipe(**groups), model, digits)


def made_by(model: nn.Module, digits: TrainingSet, **groups: Any) -> Shard:
    return produce(TASK, context(model, digits, **groups), NOW, version=7)


@pytest.mark.parametrize("attack", [PGD(0.2, steps=5), PGD(0.2, norm="l2", restarts=2), Momentum(0.2, steps=5)])
def test_without_an_allocator_a_shard_is_what_perturb_finds(
    model: nn.Module, digits: TrainingSet, attack: Attack
) -> None:
    shard = produce(TASK, replace(context(model, digits), attack=attack), NOW, version=7)
    x, labels = digits.batch(torch.tensor(INDICES), 0)
    expected = perturb(model, x, labels, attack.at(0.1), generator(0, "attack", 0, 0))
    assert torch.equal(shard.delta, expected) and torch.equal(shard.labels, labels)
    assert (shard.key, shard.worker, shard.version, shard.start_version) == (TASK.key, "w", 7, 7)
    assert (shard.gradients, shard.classes) == (attack.restarts * attack.steps * len(INDICES), {})


@pytest.mark.parametrize("objective", ["pgd-at", "trades", "mart"])
def test_a_ticket_is_what_each_example_alone_would_be(model: nn.Module, digits: TrainingSet, objective: str) -> None:
    bullettrain = context(model, digits, objective={"name": objective}, allocator=BULLETTRAIN)
    shard = produce(TASK, bullettrain, NOW, version=7)
    x, y = digits.batch(torch.tensor(INDICES), 0)
    with frozen(model), torch.no_grad():
        classes = classify(signed_variance(model(x), y), 0.4, seeded())
    assert list(shard.classes.values()) == torch.bincount(classes, minlength=3).tolist()
    assert min(shard.classes.values()) > 0
    untouched = classes == OUTLIER
    assert not shard.delta[untouched].any() and shard.delta[~untouched].flatten(1).any(1).all()
    steps = {OUTLIER: 0, BOUNDARY: 5, ROBUST: 2}
    assert shard.gradients == sum(steps[each] for each in classes.tolist())
    everywhere = bullettrain.attack_now(NOW)
    assert isinstance(everywhere, Attack) and everywhere.steps == 5
    with frozen(model):
        whole = perturb(model, x, y, everywhere, generator(0, "attack", 0, 0))
    boundary = classes == BOUNDARY
    assert torch.allclose(shard.delta[boundary], whole[boundary], atol=1e-5)
    assert not torch.allclose(shard.delta[classes == ROBUST], whole[classes == ROBUST], atol=1e-3)


def test_a_ticket_on_which_nothing_is_spent_is_clean_and_keeps_its_version(
    model: nn.Module, digits: TrainingSet
) -> None:
    spared = context(model, digits, allocator={**BULLETTRAIN, "robust_steps": 0})
    shard = produce(TASK, spared, NOW, version=7)
    clean = produce(task(0, INDICES[:1]), spared, Controls(0.1, 1.0), version=7)
    assert not clean.delta.any() and (clean.version, clean.start_version, clean.gradients) == (7, 7, 0)
    assert shard.gradients == 5 * shard.classes["boundary"]


def test_the_oracle_spends_full_steps_on_what_ten_steps_break(model: nn.Module, digits: TrainingSet) -> None:
    shard = made_by(model, digits, allocator={"name": "oracle", "robust_steps": 0})
    assert sum(shard.classes.values()) == len(INDICES) and shard.classes["boundary"] > 0
    assert shard.gradients == 10 * len(INDICES) + 5 * shard.classes["boundary"], "ten steps to classify each"


def test_the_oracle_goes_by_cross_entropy_whatever_is_attacked(model: nn.Module, digits: TrainingSet) -> None:
    oracle = {"allocator": {"name": "oracle"}, "attack": {"start": "uniform"}}
    found = [made_by(model, digits, objective={"name": name}, **oracle).classes for name in ("pgd-at", "trades")]
    assert found[0] == found[1] and found[0]["boundary"] > 0


def test_every_attacked_example_ends_on_the_newest_weights(model: nn.Module, digits: TrainingSet) -> None:
    sizes: list[int] = []
    watch = model.register_forward_pre_hook(lambda module, images: sizes.append(len(images[0])))
    with frozen(model):
        work = ShrinkingBatch(TASK, context(model, digits, allocator=BULLETTRAIN), NOW, version=3)
        for version in (4, 5, 6, 7, 8):
            work.advance(version)
    watch.remove()
    shard = work.shard()
    boundary, robust = shard.classes["boundary"], shard.classes["robust"]
    assert sizes == [len(INDICES), boundary, boundary, boundary, boundary + robust, boundary + robust]
    assert (shard.start_version, shard.version) == (3, 7), "the older one of the last two steps, which all have made"


@pytest.mark.parametrize(("steps", "version"), [(1, 4), (2, 4), (3, 5)])
def test_a_version_is_the_older_of_the_last_two_steps(
    model: nn.Module, digits: TrainingSet, steps: int, version: int
) -> None:
    work = ShrinkingBatch(TASK, context(model, digits, attack={"steps": steps}), NOW, version=3)
    while not work.done:
        work.advance(3 + len(work.versions))
    assert (work.shard().start_version, work.shard().version) == (3, version)


def test_a_shard_whose_attack_has_steps_left_is_an_error(model: nn.Module, digits: TrainingSet) -> None:
    work = ShrinkingBatch(TASK, context(model, digits), NOW, version=3)
    work.advance(3)
    with pytest.raises(SparringError, match="has steps left"):
        work.shard()


@pytest.mark.parametrize(
    ("settings", "controls"),
    [
        ({"norm": "l2", "step_size": 0.3}, NOW),
        ({"name": "n-fgsm", "noise": 0.5}, NOW),
        ({"name": "fgsm"}, NOW),
        ({"norm": "l2"}, Controls(0.1, 0.4, pgd_steps=12)),
        ({"name": "n-fgsm"}, Controls(0.1, 0.4, pgd_steps=12)),
    ],
)
def test_a_shard_gives_its_attack_back(
    model: nn.Module, digits: TrainingSet, settings: dict[str, Any], controls: Controls
) -> None:
    made_with = context(model, digits, attack=settings, objective={"name": "trades"})
    shard = decode_shard(encode_shard(produce(TASK, made_with, controls, version=7), "int8"))
    attack = made_with.attack
    assert isinstance(attack, Attack)
    again = attack.as_recorded(shard.attack)
    assert again == made_with.attack_now(controls) and again.epsilon == 0.1
    assert again.steps == (controls.pgd_steps or attack.steps)


def test_where_a_start_is_known_the_attack_begins_there(model: nn.Module, digits: TrainingSet) -> None:
    start = WarmStart(torch.full((40, *digits.shape), 0.05), torch.arange(40) % 2 == 0)
    still = context(model, digits, attack={"steps": 1, "step_size": 1e-9})
    warm, own = (produce(task(0, INDICES, start=at), still, NOW, version=0).delta for at in (start, None))
    x, _ = digits.batch(torch.tensor(INDICES), 0)
    assert torch.equal(warm[1::2], own[1::2])
    assert torch.allclose(warm[::2], (x[::2] + 0.05).clamp(0, 1) - x[::2], atol=1e-6)


def test_random_numbers_depend_on_the_ticket_alone(model: nn.Module, digits: TrainingSet) -> None:
    with_start = context(model, digits)
    one = produce(TASK, with_start, NOW, version=0)
    other = produce(replace(TASK, key=TASK.key._replace(attempt=2), worker="v", fence=9), with_start, NOW, version=5)
    next_ticket = produce(task(1, INDICES), with_start, NOW, version=0)
    assert torch.equal(one.delta, other.delta) and not torch.equal(one.delta, next_ticket.delta)


def test_an_attack_may_compare_with_the_objectives_helper(model: nn.Module, digits: TrainingSet) -> None:
    class Sure(nn.Module):
        """Says the class of each example's number."""

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.scale * 50 * nn.functional.one_hot(torch.arange(len(x)) % 10, 10).float()

    beside = AttackLoss(lambda logits, said: (said * logits.log_softmax(1)).sum(1), "helper")
    helper = Sure().train()
    towards = replace(context(model, digits), attack=PGD(0.3, steps=10, loss=beside), helper=helper)
    ready = prepare_task(TASK, towards, Controls(0.3), 0)
    assert torch.equal(ready.targets.argmax(1), torch.arange(40) % 10)
    shard = produce(TASK, towards, Controls(0.3), version=0)
    x, _ = digits.batch(torch.tensor(INDICES), 0)
    before, after = (beside(model(at), ready.targets).mean() for at in (x, x + shard.delta))
    assert after > before + 1
    assert helper.training and helper.scale.requires_grad and helper.scale.grad is None


def test_what_is_made_of_a_task_is_of_the_attacks_kind(model: nn.Module, digits: TrainingSet) -> None:
    views = context(model, digits, attack={"name": "augmix"}, objective={"name": "augmix"})
    assert isinstance(begin(TASK, views, NOW, 0), Augmentation)
    assert isinstance(begin(TASK, context(model, digits), NOW, 0), ShrinkingBatch)
    with pytest.raises(SparringError, match="'augmix' makes no perturbation"):
        prepare_task(TASK, views, NOW, 0)
