"""One interface to attack tasks: one after the other, or in slots; the same perturbations either way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from sparring.attacks import WarmStart
from sparring.data import TrainingSet
from sparring.queue.messages import Controls, Shard
from sparring.workers.attackers import OneByOne, attacker_of, produce_all
from sparring.workers.generator import produce
from sparring.workers.slots import Slots
from sparring.workers.task import AttackContext, Task
from tests.support.digits import context_of, recipe, task

TASKS = [task(n, tuple(range(40 * n, 40 * n + size))) for n, size in enumerate((40, 23, 40))]
NOW = Controls(0.1, 0.4)


def context(model: nn.Module, digits: TrainingSet, **groups: Any) -> AttackContext:
    return context_of(recipe(**{"allocator": {"name": "bullettrain"}, **groups}), model, digits)


def both_ways(tasks: list[Task], with_what: AttackContext) -> tuple[list[Shard], list[Shard]]:
    one_by_one, slots = (produce_all(tasks, with_what, NOW, 0, count) for count in (0, 16))
    return one_by_one, slots


def test_what_the_work_cost_is_shared_and_full_attacks_are_dearer(model: nn.Module, digits: TrainingSet) -> None:
    for shards in both_ways(TASKS, context(model, digits)):
        assert [shard.key for shard in shards] == [each.key for each in TASKS]
        for shard in shards:
            assert 0 < shard.cost_seconds <= shard.attack_seconds * (1 + 1e-9) and shard.full_seconds > 0


def test_a_whole_step_of_the_synchronous_engine_goes_through_the_slots(model: nn.Module, digits: TrainingSet) -> None:
    for one, other in zip(*both_ways(TASKS, context(model, digits)), strict=True):
        assert torch.allclose(one.delta, other.delta, atol=1e-6, rtol=0)


def test_slots_begin_where_the_ticket_says(model: nn.Module, digits: TrainingSet) -> None:
    random = torch.Generator().manual_seed(0)
    deltas, known = torch.rand(40, *digits.shape, generator=random) * 0.2 - 0.1, torch.arange(40) % 2 == 0
    warm = [task(0, TASKS[0].indices, start=WarmStart(deltas, known))]
    (one,), (other,) = both_ways(warm, context(model, digits))
    (without,) = produce_all(TASKS[:1], context(model, digits), NOW, 0, 16)
    assert torch.allclose(one.delta, other.delta, atol=1e-6, rtol=0)
    assert not torch.allclose(other.delta, without.delta, atol=1e-2)


def test_one_by_one_takes_a_task_when_the_last_one_has_ended(model: nn.Module, digits: TrainingSet) -> None:
    attacker = OneByOne(context(model, digits, allocator={"name": "none"}))
    assert attacker.has_room and not attacker.busy and attacker.advance(0) == []
    attacker.begin(TASKS[0], NOW, 0)
    assert not attacker.has_room and attacker.busy
    made = [attacker.advance(0) for _ in range(5)]
    assert [len(shards) for shards in made] == [0, 0, 0, 0, 1] and attacker.has_room
    assert torch.equal(made[-1][0].delta, produce(TASKS[0], attacker.context, NOW, 0).delta)


def test_a_task_is_dropped_by_its_owner_alone(model: nn.Module, digits: TrainingSet) -> None:
    attacker = OneByOne(context(model, digits))
    attacker.begin(TASKS[0], NOW, 0)
    attacker.drop((1, TASKS[0].key))
    attacker.drop(TASKS[1].owner)
    assert attacker.busy, "another fence, another ticket"
    attacker.drop(TASKS[0].owner)
    assert attacker.has_room
    attacker.begin(TASKS[1], NOW, 0)
    attacker.clear()
    assert attacker.has_room and attacker.advance(0) == []


def test_views_are_a_shard_at_once(model: nn.Module, digits: TrainingSet) -> None:
    views = context(model, digits, attack={"name": "augmix"}, objective={"name": "augmix"})
    shards = produce_all(TASKS, views, NOW, 3)
    assert [shard.key for shard in shards] == [each.key for each in TASKS]
    assert all(shard.views is not None and shard.version == 3 for shard in shards)


@pytest.mark.parametrize(("slots", "kind"), [(0, OneByOne), (16, Slots)])
def test_slots_are_taken_where_there_are_some(model: nn.Module, digits: TrainingSet, slots: int, kind: type) -> None:
    attacker = attacker_of(context(model, digits), slots, hold_back=True)
    assert type(attacker) is kind
    assert not isinstance(attacker, Slots) or (attacker.count, attacker.hold_back) == (16, True)
