"""A method of the user's own that cannot work is refused by name before a run's folder is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import sparring
from sparring.commands.trials import try_methods
from sparring.errors import UsageError
from sparring.models.arrays import to_arrays
from sparring.trainer.experiment import build_experiment
from tests.support.runs import small

METHODS = """
from dataclasses import dataclass, field

import torch

from sparring.allocators import Allocator
from sparring.attacks import Attack
from sparring.objectives import Objective


class Nothing(Attack):
    def step(self, delta, gradient, step_size, state):
        delta.add_(gradient)


class Flat(Attack):
    def step(self, delta, gradient, step_size, state):
        return (delta + gradient).flatten(1)


class Momentum(Attack):
    def step(self, delta, gradient, step_size, state):
        return delta + state["momentum"]


@dataclass(frozen=True, kw_only=True)
class Taxicab(Attack):
    norm: str = field(default="l1", init=False)
    norms = ("l1",)

    def initial(self, x, generator):
        return torch.zeros_like(x)

    def step(self, delta, gradient, step_size, state):
        return delta

    def project(self, delta, x, radius):
        return delta


class Undecided(Allocator):
    classes = ("some",)

    def classify(self, candidates):
        return torch.ones(len(candidates.labels), dtype=torch.int64)

    def budgets(self, attack):
        return []


class NoLogits(Objective):
    def loss(self, model, batch, helper):
        return model(batch.x_adv).sum(1)[0]


class Far(Attack):
    def project(self, delta, x, radius):
        return (x + delta).clamp(0, 1) - x

    def step(self, delta, gradient, step_size, state):
        return delta + 2 * (0.5 - torch.zeros_like(delta))


class Bright(Attack):
    def project(self, delta, x, radius):
        return torch.full_like(x, 0.9 * radius) * (2 * (x > 0.5) - 1)


class Forgetful(Attack):
    def state(self, x):
        return None


class Lost(Attack):
    def project(self, delta, x, radius):
        return delta * float("nan")


class Sorted(Allocator):
    classes = ("few", "many")

    def classify(self, candidates):
        return torch.zeros(len(candidates.labels), dtype=torch.int64)


class Shares(Sorted):
    def classify(self, candidates):
        return torch.zeros(len(candidates.labels))

    def budgets(self, attack):
        return [(1, 0.1), (2, 0.1)]


class Precise(Attack):
    def step(self, delta, gradient, sizes, state):
        return super().step(delta, gradient, sizes, state).double()


class Below(Sorted):
    def budgets(self, attack):
        return [(1, 0.1), (-1, 0.1)]


class Halves(Sorted):
    def budgets(self, attack):
        return [(1, 0.1), (1.5, 0.1)]


class Twins(Sorted):
    classes = ("same", "same")

    def budgets(self, attack):
        return [(1, 0.1), (2, 0.1)]


class Detached(Objective):
    def loss(self, model, batch, helper):
        logits = model(batch.x_adv)
        return logits.detach().sum(), logits


class Endless(Objective):
    def loss(self, model, batch, helper):
        logits = model(batch.x_adv)
        return logits.sum() / 0, logits


class InPlace(Objective):
    def loss(self, model, batch, helper):
        logits = model(batch.x_adv)
        loss = logits.exp()
        loss.add_(1)
        return loss.sum(), logits
"""


@pytest.mark.parametrize(
    ("group", "name", "said"),
    [
        ("attack", "Nothing", r"step returns a NoneType; perturbations, torch\.float32 \(2, 1, 8, 8\), are needed"),
        ("attack", "Flat", r"step returns torch\.float32 \(2, 64\)"),
        ("attack", "Precise", r"step returns torch\.float64 \(2, 1, 8, 8\)"),
        ("allocator", "Shares", r"returned torch\.float32 \(2,\): class numbers, int64 \[N\], are needed"),
        ("attack", "Momentum", r"KeyError: 'momentum', mine\.py:\d+"),
        ("allocator", "Undecided", r"returned 0 budgets"),
        ("objective", "NoLogits", r"TypeError: "),
        ("attack", "Far", r"project leaves δ outside the ball: its linf norm is \d"),
        ("attack", "Bright", r"project leaves x \+ δ outside \[0, 1\]"),
        ("attack", "Forgetful", r"state returns a NoneType; a dict of tensors"),
        ("attack", "Lost", r"project returns NaN"),
        ("allocator", "Below", r"class 'many' has the budget steps = -1, step_size = 0\.1"),
        ("allocator", "Halves", r"class 'many' has the budget steps = 1\.5"),
        ("allocator", "Twins", r"each needs a name of its own"),
        ("objective", "Detached", r"loss has no gradient"),
        ("objective", "Endless", r"loss is -?inf although all logits are finite"),
        ("objective", "InPlace", r"modified by an inplace operation"),
    ],
)
def test_a_method_that_cannot_work_is_refused_before_the_folder_is_made(
    tmp_path: Path, group: str, name: str, said: str
) -> None:
    (tmp_path / "mine.py").write_text(METHODS)
    named = f"{tmp_path}/mine.py:{name}"
    with pytest.raises(UsageError, match=said) as refusal:
        sparring.train(small(tmp_path, engine="sync", **{group: {"name": named}}), progress=False)
    assert f"{group}.name = {named!r} fails" in str(refusal.value)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir() and path.name != "__pycache__"] == []


@pytest.mark.parametrize(("attack", "largest"), [({"norm": "l2"}, "8"), ({"name": "Taxicab"}, "64")])
def test_a_ball_larger_than_the_distance_of_any_two_images_is_refused(
    tmp_path: Path, attack: dict[str, Any], largest: str
) -> None:
    (tmp_path / "mine.py").write_text(METHODS)
    if "name" in attack:
        attack = {**attack, "name": f"{tmp_path}/mine.py:{attack['name']}"}
    for epsilon in (float(largest), float(largest) * 1.01):
        experiment = build_experiment(small(tmp_path, engine="sync", attack={**attack, "epsilon": epsilon}))
        if epsilon == float(largest):
            try_methods(experiment)
        else:
            with pytest.raises(UsageError, match=f"are at most {largest} apart"):
                try_methods(experiment)


def test_a_trial_changes_nothing(tmp_path: Path) -> None:
    experiment = build_experiment(small(tmp_path, engine="sync", objective={"name": "trades"}))
    before, state = to_arrays(experiment.model), torch.random.get_rng_state()
    try_methods(experiment)
    after = to_arrays(experiment.model)
    assert all((after[name] == value).all() for name, value in before.items())
    assert experiment.model.training and torch.equal(torch.random.get_rng_state(), state)
