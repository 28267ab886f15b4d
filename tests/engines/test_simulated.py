"""Simulated staleness: every attack has exactly the staleness asked for, and a resume changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sparring.commands.train import train
from sparring.config import SimulatedSettings, new_run
from sparring.engines.simulated import Attacker, staleness_schedule
from sparring.queue.messages import Controls, Key
from sparring.trainer.experiment import build_experiment
from sparring.trainer.session import Session
from tests.support.runs import assert_a_resume_changes_nothing, small

FEW: dict[str, Any] = {"data": {"limit": 256}, "train": {"epochs": 3}}  # 4 steps an epoch
RUNS: list[dict[str, Any]] = [
    {"simulated": {"staleness": 3}, "allocator": {"name": "bullettrain"}},
    {"simulated": {"staleness": 3, "exchange": True}},
    {"simulated": {"staleness": 2}, "attack": {"name": "fgsm", "start": "previous"}},
    {"simulated": {"staleness": 2}, "attack": {"start": "last"}, **FEW},
    {
        "simulated": {"staleness": 3, "exchange": True},
        "attack": {"name": "augmix"},
        "objective": {"name": "augmix"},
        "allocator": {"name": "bullettrain", "robust_steps": 0},
    },
]


@pytest.mark.parametrize("groups", RUNS)
def test_a_resume_goes_on_to_the_same_weights_and_the_same_staleness(
    tmp_path: Path, groups: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_a_resume_changes_nothing(tmp_path, monkeypatch, engine="simulated", **groups)


@pytest.mark.parametrize(
    ("settings", "steps", "expected"),
    [
        ({"staleness": 4}, 3, [4, 4, 4]),
        ({"staleness": 4, "exchange": True}, 5, [4, 3, 2, 1, 0]),
        ({"staleness": 4, "exchange": True, "final_staleness": 2}, 3, [4, 3, 2]),
        ({"staleness": 1, "exchange": True, "final_staleness": 3}, 2, [1, 1]),
        ({"staleness": 4, "exchange": True}, 1, [4]),
        ({"staleness": 4, "exchange": True}, 0, []),
    ],
)
def test_exchange_brings_the_staleness_of_attack_steps_down_evenly(
    settings: dict[str, Any], steps: int, expected: list[int]
) -> None:
    assert staleness_schedule(SimulatedSettings(**settings), steps) == expected


def test_a_helper_network_that_is_trained_beside_the_model_is_as_stale_as_it(tmp_path: Path) -> None:
    groups = {"objective": {"name": "tests.support.helped:Compared"}, "engine": "simulated"}
    config = small(tmp_path, **groups, simulated={"staleness": 2}, train={"max_steps": 2})
    experiment = build_experiment(config)
    helper = experiment.changing_helper
    assert helper is not None
    attacker = Attacker(experiment, staleness=2)
    before = torch.cat([each.flatten().clone() for each in helper.parameters()])
    for step in range(2):
        networks = nn.ModuleDict({"model": experiment.model, "helper": helper})
        attacker.history.remember(step, networks.state_dict(), Controls(0.2))
        with torch.no_grad():
            for each in helper.parameters():
                each.add_(1.0)
    session = Session(experiment, new_run(config), torch.device("cpu"))
    attacker.attack(Key(0, 0, 0), 1, SimulatedSettings(staleness=1), session)
    used = attacker.context.helper
    assert used is not None and used is not helper
    assert torch.equal(torch.cat([each.flatten() for each in used.parameters()]), before)


@pytest.mark.parametrize("exchange", [False, True])
def test_a_resume_with_a_trained_helper_goes_on_to_the_same_weights(
    tmp_path: Path, exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = {
        "objective": {"name": "tests.support.helped:Compared"},
        "simulated": {"staleness": 2, "exchange": exchange},
    }
    assert_a_resume_changes_nothing(tmp_path, monkeypatch, engine="simulated", **groups)


def test_the_first_steps_are_as_stale_as_there_are_versions_before_them(tmp_path: Path) -> None:
    run = train(small(tmp_path, engine="simulated", simulated={"staleness": 3}, train={"max_steps": 6})).run
    assert (run.read_json("state.json") or {})["staleness"] == {"0": 1, "1": 1, "2": 1, "3": 3}


def test_the_steps_of_a_refresh_are_counted(tmp_path: Path) -> None:
    settings = {"simulated": {"staleness": 3}, "staleness": {"refresh": 2}, "train": {"max_steps": 4}}
    summary = train(small(tmp_path, engine="simulated", **settings)).summary
    assert summary["refresh_steps"] == 4 * 2 and summary["gradients_per_example"] == 3 + 2
