"""A fresh finish: which weights make which step, and that a ticket which waits lets others go on."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from sparring.allocators.bullettrain import BulletTrain
from sparring.attacks import PGD
from sparring.data import TrainingSet
from sparring.queue.messages import Controls, Finish, Key, Shard
from sparring.workers.finish import FinishedAttack, Finisher, finish_all
from sparring.workers.task import AttackContext, Task
from tests.support.digits import half_trained, training_digits

EPSILON, STEPS, N = 0.2, 5, 12
DIGITS = training_digits()


class Kept:
    """Weights by version, each shifted by a little of its own; `here`: which have arrived."""

    def __init__(self, model: nn.Module, versions: int) -> None:
        self.model, self.loads = model, 0
        self.weights: dict[int, dict[str, Tensor]] = {}
        for version in range(versions):
            random = torch.Generator().manual_seed(version)
            self.weights[version] = {
                name: tensor + 0.02 * torch.randn(tensor.shape, generator=random)
                for name, tensor in model.state_dict().items()
            }
        self.here = set(self.weights)

    def newest(self, fence: int) -> int:
        return max(self.here, default=-1)

    def has(self, order: tuple[int, int]) -> bool:
        return order[1] in self.here

    def load(self, order: tuple[int, int]) -> Controls:
        self.loads += 1
        self.model.load_state_dict(self.weights[order[1]])
        return Controls(99.0, robust_share=0.5)  # ε is that of the finish


@pytest.fixture
def kept() -> Kept:
    return Kept(half_trained(DIGITS), 4)


def context(model: nn.Module, allocator: BulletTrain | None = None) -> AttackContext:
    return AttackContext(model, DIGITS, PGD(EPSILON, steps=STEPS, start="zero"), allocator, seed=0)


def by_hand(kept: Kept, dataset: TrainingSet, indices: tuple[int, ...], head: int, finish: int, last: int) -> Tensor:
    """The same attack in float64, written out."""
    x, y = dataset.batch(torch.tensor(indices), 0)
    x = x.double()
    delta = torch.zeros_like(x)
    for step in range(STEPS):
        model = copy.deepcopy(kept.model)
        model.load_state_dict(kept.weights[finish if step >= STEPS - last else head])
        model.double().eval()
        point = (x + delta).requires_grad_(True)
        loss = nn.functional.cross_entropy(model(point), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, point)
        delta = (delta + 2.5 * EPSILON / STEPS * gradient.sign()).clamp(-EPSILON, EPSILON)
        delta = (x + delta).clamp(0, 1) - x
    return delta


@pytest.mark.parametrize("last", [1, 3, 5])
def test_the_head_has_the_older_weights_and_the_last_steps_the_newer_ones(kept: Kept, last: int) -> None:
    setting, task = context(kept.model), Task(Key(0, 0, 0), tuple(range(N)))
    finisher = Finisher(setting, kept, last)
    (shard,) = finish_all(finisher, [task], 1, Finish(3, EPSILON), lambda made: made)
    assert (shard.start_version, shard.version) == (1, 1 if last == 1 else 3)
    assert shard.attack.epsilon == EPSILON
    expected = by_hand(kept, setting.dataset, task.indices, 1, 3, last)
    assert ((shard.delta - expected).abs() > 1e-5).double().mean() < 0.01
    other = by_hand(kept, setting.dataset, task.indices, 3 if last < 5 else 1, 3 if last < 5 else 1, last)
    assert ((shard.delta - other).abs() > 1e-5).double().mean() > 0.02, "the weights must make a difference"


def test_a_ticket_that_waits_for_its_weights_lets_others_go_on_and_the_earliest_step_goes_first(kept: Kept) -> None:
    finisher, kept.here = Finisher(context(kept.model), kept, 2), {0, 1}
    assert finisher.at_gate and finisher.waits and finisher.advance() is None
    finisher.begin(Task(Key(0, 1, 0), (3, 4)), 1, Finish(2, EPSILON))
    finisher.begin(Task(Key(0, 0, 0), (1, 2)), 0, Finish(1, EPSILON))
    assert finisher.orders == {(0, 0), (0, 1), (0, 2)} and not finisher.at_gate
    ended: list[Shard] = []
    while not finisher.waits:
        ended += [shard for shard in [finisher.advance()] if shard is not None]
    assert [shard.key.number for shard in ended] == [0] and finisher.at_gate
    assert finisher.needs == [(0, 2)] and kept.loads == 2
    kept.here.add(2)
    assert not finisher.at_gate
    assert finisher.advance() is None
    last = finisher.advance()
    assert last is not None and (last.key.number, last.version) == (1, 2) and not finisher.needs


def test_a_head_that_waits_for_its_own_weights_is_not_at_the_gate_so_no_ticket_more_is_taken(kept: Kept) -> None:
    finisher, kept.here = Finisher(context(kept.model), kept, 2), set()
    finisher.begin(Task(Key(0, 1, 0), (3, 4)), 1, Finish(2, EPSILON))
    assert finisher.waits and not finisher.at_gate
    finisher.drop((0, Key(0, 1, 0)))
    assert finisher.at_gate


def test_an_example_with_few_steps_waits_whole(kept: Kept) -> None:
    """Robust examples get one step: with two fresh steps it is made under the weights of the finish alone."""
    setting = context(kept.model, BulletTrain(boundary_steps=STEPS, robust_steps=1, outlier_steps=0))
    task = Task(Key(0, 0, 0), tuple(range(60)))
    (shard,) = finish_all(Finisher(setting, kept, 2), [task], 1, Finish(3, EPSILON), lambda made: made)
    assert shard.classes["robust"] > 0 and shard.classes["boundary"] > 0
    attack = FinishedAttack(task, 1, Finish(3, EPSILON), 2)
    seen = [attack.needs[1]]
    for _ in range(STEPS + 1):
        controls = kept.load(attack.needs)
        if attack.advance(setting, controls) is None:
            seen.append(attack.needs[1])
    assert seen == [1, 1, 1, 1, 3, 3]


def test_a_ticket_whose_step_has_been_made_is_dropped(kept: Kept) -> None:
    finisher, kept.here = Finisher(context(kept.model), kept, 2), {0, 1}
    late, next_one = Task(Key(0, 0, 0), (1, 2)), Task(Key(0, 1, 0), (3, 4))
    finisher.begin(late, 0, Finish(1, EPSILON))
    finisher.begin(next_one, 1, Finish(2, EPSILON))
    assert finisher.passed() == []
    kept.here = {1, 2}  # others have made the step, and the weights of the late ticket's head are gone
    assert finisher.passed() == [late.owner] and finisher.passed() == []
    assert finisher.orders == {(0, 1), (0, 2)}, "the other one goes on"
