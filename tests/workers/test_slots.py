"""Slots against the batch that shrinks: the same perturbations, whatever else is in work, and honest versions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparring.data import TrainingSet
from sparring.queue.messages import Controls, Key, Shard
from sparring.workers.generator import produce
from sparring.workers.slots import Slots
from sparring.workers.task import AttackContext, Task
from tests.support.digits import InDouble, context_of, recipe, task
from tests.support.momentum import Momentum

TASKS = [task(n, tuple(range(40 * n, 40 * n + size))) for n, size in enumerate((40, 23, 40))]


def context(model: nn.Module, digits: TrainingSet, **groups: Any) -> AttackContext:
    return context_of(recipe(**{"allocator": {"name": "bullettrain"}, **groups}), model, digits)


def controls(task: Task) -> Controls:
    """Every ticket has an ε of its own."""
    return Controls(0.1 + 0.01 * task.key.number, 0.4)


class Stream:
    """Slots that are given the next ticket whenever they have room, as a worker does it."""

    def __init__(self, with_what: AttackContext, count: int, *, most: int = 3) -> None:
        self.slots = Slots(with_what, count, hold_back=True)
        self.waiting, self.most, self.began = list(TASKS), most, 0
        self.at_once: list[int] = []

    def run(self, version: Callable[[int], int] = lambda step: 0) -> dict[Key, Shard]:
        made: dict[Key, Shard] = {}
        for step in itertools.count():
            while self.waiting and self.slots.has_room and self.began - len(made) < self.most:
                next_one = self.waiting.pop(0)
                self.slots.begin(next_one, controls(next_one), version(step))
                self.began += 1
            self.at_once.append(self.began - len(made))
            made.update({shard.key: shard for shard in self.slots.advance(version(step))})
            if len(made) == len(TASKS):
                return made
            assert step < 200
        raise AssertionError


def alone(with_what: AttackContext) -> dict[Key, Shard]:
    """The tickets in a batch that shrinks, each with the ε that `Stream` gives it."""
    return {each.key: produce(each, with_what, controls(each), 0) for each in TASKS}


@pytest.mark.parametrize("slots", [16, 90])
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("objective", ["pgd-at", "trades"])
@pytest.mark.parametrize("name", ["none", "bullettrain"])
def test_slots_and_the_shrinking_batch_make_the_same_perturbations(
    model: nn.Module, digits: TrainingSet, slots: int, norm: str, objective: str, name: str
) -> None:
    groups = {"attack": {"norm": norm}, "objective": {"name": objective}, "allocator": {"name": name}}
    with_what = context(InDouble(model), digits, **groups)
    stream = Stream(with_what, slots)
    made, expected = stream.run(), alone(with_what)
    assert max(stream.at_once) >= 2, "several tickets were in work at the same time"
    for key, shard in expected.items():
        assert torch.allclose(made[key].delta, shard.delta, atol=1e-6, rtol=0)
        assert (made[key].classes, made[key].gradients) == (shard.classes, shard.gradients)
        assert made[key].attack == shard.attack and torch.equal(made[key].labels, shard.labels)
    if name == "bullettrain":
        untouched = sum(not delta.any() for shard in made.values() for delta in shard.delta)
        assert untouched == sum(shard.classes["outlier"] for shard in made.values()) > 0


@pytest.mark.parametrize("slots", [16, 90])
@pytest.mark.parametrize("name", ["none", "bullettrain"])
def test_a_step_rules_state_stays_with_its_example(
    model: nn.Module, digits: TrainingSet, slots: int, name: str
) -> None:
    """Slots are used again and again, by examples with different steps: none may inherit another's velocity."""
    usual = context(InDouble(model), digits, allocator={"name": name})
    moving, forgetful = (
        replace(usual, attack=Momentum(0.2, steps=5, step_size=0.03, decay=decay)) for decay in (0.9, 0.0)
    )
    made, expected, without = Stream(moving, slots).run(), alone(moving), alone(forgetful)
    for key, shard in expected.items():
        assert torch.allclose(made[key].delta, shard.delta, atol=1e-6, rtol=0)
        assert not torch.allclose(without[key].delta, shard.delta, atol=1e-3), "the state must make a difference"


def test_every_step_has_the_same_shape_and_examples_without_steps_take_no_slot(
    model: nn.Module, digits: TrainingSet
) -> None:
    sizes: list[int] = []
    stream = Stream(context(model, digits), 16)
    watch = model.register_forward_pre_hook(lambda module, images: sizes.append(len(images[0])))
    made = stream.run()
    watch.remove()
    classifying = [len(each.indices) for each in TASKS]
    assert sorted(set(sizes)) == [16, 23, 40] and [sizes.count(40), sizes.count(23)] == [2, 1]
    gradients = sum(shard.gradients for shard in made.values())
    assert gradients <= 16 * (len(sizes) - len(classifying)) < 1.35 * gradients, "few slots idled"


def test_the_version_is_the_oldest_that_an_example_ended_on(model: nn.Module, digits: TrainingSet) -> None:
    """Steps take versions 10, 11, 12, …; which of them each example used is found by watching its slot."""
    stream = Stream(context(model, digits), 16)
    used: dict[tuple[Key, int], list[int]] = {}

    def note(step: int) -> int:
        for slot in stream.slots._slots:
            if slot is not None:
                used.setdefault((slot.job.ready.task.key, slot.example), []).append(10 + step)
        return 10 + step

    slots, advance = stream.slots, stream.slots.advance
    slots.advance = lambda version: advance(note(version - 10))  # type: ignore[method-assign]
    made = stream.run(lambda step: 10 + step)
    for key, shard in made.items():
        last_two = [min(versions[-2:]) for (owner, _), versions in used.items() if owner == key]
        assert shard.version == min(last_two) and shard.gradients == sum(
            len(versions) for (owner, _), versions in used.items() if owner == key
        )
    assert made[TASKS[0].key].start_version == 10


def test_held_back_examples_end_together_with_their_ticket(model: nn.Module, digits: TrainingSet) -> None:
    spreads = {}
    for hold_back in (True, False):
        slots = Slots(context(model, digits), 40, hold_back=hold_back)
        slots.begin(TASKS[0], Controls(0.1, 0.4), 0)
        shards = [shard for step in range(1, 6) for shard in slots.advance(step)]
        spreads[hold_back] = 5 - shards[0].version
    assert spreads == {True: 1, False: 4}, "the two steps of robust examples are the last ones, or the first"


def test_a_lost_ticket_frees_its_slots_and_leaves_the_others_alone(model: nn.Module, digits: TrainingSet) -> None:
    with_what = context(model, digits)
    expected = alone(with_what)
    slots = Slots(with_what, 40, hold_back=True)
    for each in TASKS[:2]:
        slots.begin(each, controls(each), 0)
    slots.advance(0)
    slots.drop(TASKS[0].owner)
    assert slots.has_room and slots.busy
    made = [shard for _ in range(30) for shard in slots.advance(0)]
    assert [shard.key for shard in made] == [TASKS[1].key] and not slots.busy
    assert torch.allclose(made[0].delta, expected[TASKS[1].key].delta, atol=1e-6, rtol=0)


def test_a_guards_attack_works_beside_the_recipes(model: nn.Module, digits: TrainingSet) -> None:
    """A ticket that was begun before the guard's word ends as it began."""
    with_what = context(InDouble(model), digits, attack={"name": "n-fgsm"}, allocator={"name": "none"})
    slots, guarded = Slots(with_what, 90, hold_back=False), Controls(0.1, 0.4, pgd_steps=6)
    slots.begin(TASKS[0], controls(TASKS[0]), 0)
    slots.begin(TASKS[1], guarded, 0)
    made = {shard.key: shard for _ in range(6) for shard in slots.advance(0)}
    expected = [produce(TASKS[0], with_what, controls(TASKS[0]), 0), produce(TASKS[1], with_what, guarded, 0)]
    assert [shard.attack.name for shard in expected] == ["n-fgsm", "pgd"]
    for shard in expected:
        assert made[shard.key].attack == shard.attack
        assert torch.allclose(made[shard.key].delta, shard.delta, atol=1e-6, rtol=0)


class Blind(nn.Module):
    """The predictions of a network, with a gradient of `value` everywhere."""

    def __init__(self, network: nn.Module, value: float) -> None:
        super().__init__()
        self.network, self.value = network, value

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, K]; the first one alone has the gradient."""
        slope = torch.zeros_like(x).copy_(x - x.detach()) * self.value
        logits: Tensor = self.network(x.detach())
        return logits + (slope.flatten(1).sum(1, keepdim=True)).nan_to_num(0.0)


@pytest.mark.parametrize("value", [0.0, math.inf])
def test_examples_without_a_usable_gradient_are_counted_once_each_and_idle_slots_never(
    model: nn.Module, digits: TrainingSet, value: float
) -> None:
    blind = context(Blind(model, value), digits)
    for made in (alone(blind), Stream(blind, 64).run()):
        for shard in made.values():
            attacked = sum(count for name, count in shard.classes.items() if name != "outlier")
            assert attacked > 0
            counts = (shard.zero_gradients, shard.non_finite_gradients)
            assert counts == ((attacked, 0) if value == 0 else (0, attacked))
    sound = alone(context(model, digits)).values()
    assert {(shard.zero_gradients, shard.non_finite_gradients) for shard in sound} == {(0, 0)}
