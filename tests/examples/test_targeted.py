"""The targeted attack as an example: towards which class, and that it gets there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from examples.targeted import Targeted
from sparring.errors import UsageError
from tests.support.examples import ROOT, run_command_of
from tests.support.own_methods import example, trained

NAMED = {"name": example("targeted.py:Targeted")}


@pytest.mark.parametrize(("target", "goals"), [(None, [1, 2, 3, 4, 0]), (2, [2, 2, 3, 2, 2]), (4, [4, 4, 4, 4, 0])])
def test_its_loss_is_minus_the_cross_entropy_with_the_target(target: int | None, goals: list[int]) -> None:
    logits, labels = torch.randn(5, 5, generator=torch.Generator().manual_seed(0)).double(), torch.arange(5)
    found = Targeted(0.1, target=target).maximised(logits, labels)
    rows = logits.numpy()
    expected = [row[goal] - np.log(np.exp(row).sum()) for row, goal in zip(rows, goals, strict=True)]
    assert np.allclose(found.numpy(), expected, atol=1e-6, rtol=0)


def test_the_model_predicts_the_target_afterwards() -> None:
    torch.manual_seed(0)
    model, x, y = nn.Sequential(nn.Flatten(), nn.Linear(64, 5)), torch.rand(20, 1, 8, 8), torch.arange(20) % 5
    predicted = model(Targeted(0.4, target=3)(model, x, y)).argmax(1)
    assert predicted.tolist() == torch.where(y == 3, 4, 3).tolist()


def test_it_is_trained_against_from_its_file_and_evaluated_without_a_target(tmp_path: Path) -> None:
    summary = trained(tmp_path, "sync", attack={**NAMED, "options": {"target": 3}}).summary
    assert summary["attack"].startswith("PGD-2")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"options": {"target": -1}}, "target = -1: the number of a class"),
        ({"loss": "kl"}, r"attack\.loss = 'kl' with attack\.name = .* takes no loss"),
    ],
)
def test_what_does_not_go_with_it_is_refused(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        trained(tmp_path, "sync", attack={**NAMED, **settings})


def test_it_trains_by_the_command_that_it_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert run_command_of(ROOT / "examples" / "targeted.py", tmp_path).summary["steps"] == 2
