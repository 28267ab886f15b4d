"""A method of the user's own that cannot work is refused by name before a run's folder is made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import sparring
from sparring.commands.trials import try_methods
from sparring.errors import SparringError, UsageError
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


NETWORKS = """
import torch
from torch import nn


class Network(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.flat, self.one, self.two = nn.Flatten(), nn.Linear(64, classes), nn.Linear(64, classes)

    def forward(self, x):
        return self.trained(self.flat(x)) if self.training else self.one(self.flat(x))


class Pair(Network):
    def trained(self, x):
        return self.one(x), self.two(x)


class Wider(Network):
    def trained(self, x):
        return torch.cat([self.one(x), self.two(x)], 1)


class Fails(Network):
    def trained(self, x):
        raise LookupError("no such layer")


class Half(Network):
    def trained(self, x):
        return self.one(x)[:1]


class Counts(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        normed = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)
        self.layers = nn.Sequential(*normed, nn.Flatten(), nn.Dropout(), nn.Linear(72, classes))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.seen = self.seen + len(x)
        return self.layers(x)
"""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Pair", r"returns a tuple for 2 examples in training mode, and logits of \(2, 10\) in eval mode"),
        ("Wider", r"returns logits of \(2, 20\) for 2 examples in training mode"),
        ("Half", r"returns logits of \(1, 10\) for 2 examples in training mode"),
        ("Fails", r"fails in training mode on 2 examples \(LookupError: no such layer, nets\.py:27\)"),
    ],
)
def test_a_model_that_cannot_train_is_refused_before_the_folder_is_made(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "nets.py").write_text(NETWORKS)
    config = small(tmp_path / "runs", engine="sync", model={"name": f"{tmp_path / 'nets.py'}:{name}"})
    with pytest.raises(UsageError, match=said):
        sparring.train(config, progress=False)
    assert not (tmp_path / "runs").exists()


def test_the_pass_in_training_mode_leaves_the_model_and_the_random_state_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(NETWORKS)
    experiment = build_experiment(small(tmp_path, engine="sync", model={"name": f"{tmp_path / 'nets.py'}:Counts"}))
    before = {name: value.clone() for name, value in experiment.model.state_dict().items()}
    modes, random = [each.training for each in experiment.model.modules()], torch.get_rng_state()
    try_methods(experiment)
    after = experiment.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items()) and len(after) == len(before)
    assert [each.training for each in experiment.model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)


LATE = """
from sparring.objectives import Objective, pgd_at


class Late(Objective):
    calls = 0

    def loss(self, model, batch, helper):
        self.calls += 1
        logits = model(batch.x_adv)
        if self.calls > 4:
            raise KeyError("mine")
        return pgd_at(logits, batch.labels), logits
"""


def test_an_error_of_ones_own_code_at_a_later_step_names_setting_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text(LATE)
    config = small(tmp_path / "runs", engine="sync", objective={"name": f"{tmp_path / 'late.py'}:Late"})
    with pytest.raises(
        SparringError, match=r"objective\.name = '.*late\.py:Late' fails \(KeyError: 'mine', late\.py:12\)"
    ):
        sparring.train(config, progress=False)
    (run,) = (tmp_path / "runs").iterdir()
    state = json.loads((run / "state.json").read_text())
    assert state["phase"] == "failed" and "late.py:12" in state["message"]


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
