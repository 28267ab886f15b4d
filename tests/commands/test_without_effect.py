"""What is set and does nothing is said; what does something is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sparring.commands.without_effect import RULES, after_the_end, without_effect
from sparring.config import flatten, load, overridden, setting_names
from sparring.trainer.experiment import build_experiment
from tests.support.runs import small

RECIPES = sorted(Path("recipes").glob("*.toml"))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"optimizer.momentum": 0.5}, ["No effect with optimizer.name = 'adam': optimizer.momentum = 0.5."]),
        ({"optimizer.momentum": 0.5, "optimizer.name": "sgd"}, []),
        (
            {"optimizer.beta1": 0.5, "optimizer.name": "sgd"},
            ["No effect with optimizer.name = 'sgd': optimizer.beta1 = 0.5."],
        ),
        ({"schedule.milestones": [0.1]}, ["No effect with schedule.name = 'one_cycle': schedule.milestones = [0.1]."]),
        ({"schedule.milestones": [0.1], "schedule.name": "piecewise"}, []),
        ({"pruning.share": 0.5}, ["No effect with pruning.name = 'none': pruning.share = 0.5."]),
        ({"pruning.share": 0.5, "pruning.name": "low"}, []),
        ({"objective.beta": 2.0}, ["No effect with objective.name = 'pgd-at': objective.beta = 2.0."]),
        ({"objective.beta": 2.0, "objective.name": "mart"}, []),
        ({"attack.noise": 1.0}, ["No effect with attack.name = 'pgd': attack.noise = 1.0."]),
        ({"attack.noise": 1.0, "attack.name": "n-fgsm"}, []),
        ({"allocator.gamma": 0.5}, ["No effect with allocator.name = 'none': allocator.gamma = 0.5."]),
        ({"allocator.gamma": 0.5, "allocator.name": "bullettrain"}, []),
        ({"evaluation.weights": "ema"}, ["No effect with train.ema = none: evaluation.weights = 'ema'."]),
        ({"evaluation.weights": "ema", "train.ema": 0.99}, []),
        (
            {"evaluation.attack": "autoattack", "evaluation.steps": 9},
            ["No effect with evaluation.attack = 'autoattack': evaluation.steps = 9."],
        ),
        (
            {"attack.name": "augmix", "attack.warmup": 0.5},
            ["No effect with attack.name = 'augmix': attack.warmup = 0.5."],
        ),
        ({"attack.warmup": 0.5}, []),
        ({"model.pretrained": True}, ["No effect with model.name = 'digits-cnn': model.pretrained = True."]),
        (
            {"engine": "sync", "workers.count": 5, "ddp.ranks": 3, "simulated.staleness": 2},
            ["No effect with engine = 'sync': workers.count = 5, simulated.staleness = 2, ddp.ranks = 3."],
        ),
        ({"train.evaluate_every_epochs": 1}, ["No effect with data.holdout = 0: train.evaluate_every_epochs = 1.0."]),
        ({"train.evaluate_every_epochs": 1, "data.holdout": 9}, []),
        ({"allocator.hold_back": False}, ["No effect with allocator.slots = 'auto': allocator.hold_back = False."]),
        ({"allocator.hold_back": False, "allocator.slots": 8}, []),
        ({"engine": "sync", "queue.wire": "exact"}, ["No effect with engine = 'sync': queue.wire = 'exact'."]),
        ({"engine": "sync", "queue.wire": "exact", "staleness.finish": 2}, []),
        ({"engine": "simulated", "simulated.staleness": 2, "staleness.refresh": 1}, []),
        ({"engine": "sync", "staleness.finish": 2, "staleness.lead": 2}, []),
    ],
)
def test_settings_without_effect_are_named_with_the_setting_that_decides(
    changes: dict[str, Any], told: list[str]
) -> None:
    assert without_effect(load(None, changes)) == told


def test_the_defaults_and_every_recipe_have_none() -> None:
    assert len(RECIPES) > 10
    for recipe in (None, *RECIPES):
        assert without_effect(load(recipe)) == [], recipe


def test_methods_of_ones_own_decide_by_their_parameters(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from sparring.objectives.methods import TRADES\n"
        "def mine(beta):\n    return TRADES(beta=beta)\n"
        "def other():\n    return TRADES(beta=1.0)\n"
    )
    for name, told in (("mine", 0), ("other", 1)):
        changes = {"objective.name": f"{tmp_path / 'mine.py'}:{name}", "objective.beta": 2.0}
        assert len(without_effect(load(None, changes))) == told


def test_each_rule_names_settings_that_there_are() -> None:
    names, known = [name for rule in RULES for name in rule.settings], [*setting_names(), *flatten(load())]
    assert all(any(each == name or (each.startswith(name) and name[-1] == ".") for each in known) for name in names)
    assert all(rule.by in known for rule in RULES)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"objective.awp_gamma": 0.01, "objective.awp_warmup_epochs": 2}, "objective.awp_warmup_epochs = 2"),
        ({"objective.awp_gamma": 0.01, "objective.awp_warmup_epochs": 1}, None),
        ({"pruning.name": "low", "pruning.epoch": 1, "train.max_steps": 20}, "pruning.epoch = 1"),
        ({"pruning.name": "low", "pruning.epoch": 1, "train.max_steps": 24}, None),
        ({"data.holdout": 100, "train.evaluate_every_epochs": 5}, "train.evaluate_every_epochs = 5.0"),
        ({"data.holdout": 100, "train.evaluate_every_epochs": 2}, None),
        ({"guard.overfitting": "rollback", "guard.overfitting_every": 500}, "guard.overfitting_every = 500"),
        ({"guard.overfitting": "rollback", "guard.overfitting_every": 20}, None),
        (
            {"attack.start": "last", "train.epochs": 1},
            "attack.start = 'last': in the only epoch no example has a last attack.",
        ),
        ({"attack.start": "last"}, None),
        ({"guard.staleness": True, "guard.staleness_every": 500, "engine": "simulated"}, "guard.staleness_every = 500"),
    ],
)
def test_what_would_begin_after_the_last_step_is_told(
    tmp_path: Path, changes: dict[str, Any], told: str | None
) -> None:
    """The digits have 23 steps of 64 examples an epoch; here there are two."""
    config = overridden(small(tmp_path, engine="sync", train={"epochs": 2, "max_steps": None}), changes)
    found = after_the_end(config, build_experiment(config).plan)
    assert [each.split(" comes after")[0] for each in found] == ([] if told is None else [f"No effect: {told}"])
