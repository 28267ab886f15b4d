"""An allocator of four classes as an example: who is in which, what each gets, and that all is reported by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from examples.allocator import ByMargin
from sparring.allocators import Candidates
from sparring.attacks import PGD
from sparring.errors import UsageError
from tests.support.examples import ROOT, run_command_of
from tests.support.own_methods import assert_workers_use_it, example, trained
from tests.support.runs import Place

NAMED = {"name": example("allocator.py:ByMargin"), "options": {"near": 0.05, "certain": 0.1}}


def candidates(logits: torch.Tensor, labels: torch.Tensor) -> Candidates:
    return Candidates(
        nn.Identity(), torch.zeros(len(labels), 1, 1, 1), labels, logits, PGD(0.2), 0.0, torch.Generator()
    )


def test_classes_follow_the_margin_of_the_clean_prediction() -> None:
    random = torch.Generator().manual_seed(0)
    logits, labels = 4 * torch.randn(200, 6, generator=random), torch.randint(6, (200,), generator=random)
    found = ByMargin(near=0.4, certain=0.9).classify(candidates(logits, labels)).tolist()
    names = []
    for row, label in zip(logits.double().numpy(), labels.tolist(), strict=True):
        shares = np.exp(row) / np.exp(row).sum()
        margin = shares[label] - np.delete(shares, label).max()
        names.append("wrong" if margin < 0 else "near" if margin < 0.4 else "sure" if margin < 0.9 else "certain")
    assert [ByMargin.classes[number] for number in found] == names
    assert set(names) == set(ByMargin.classes)


@pytest.mark.parametrize(("steps", "expected"), [(8, [1, 8, 4, 2]), (2, [1, 2, 1, 1])])
def test_fewer_steps_go_as_far_together(steps: int, expected: list[int]) -> None:
    attack = PGD(0.2, steps=steps)
    wrong, *others = ByMargin().budgets(attack)
    assert [wrong.steps, *(budget.steps for budget in others)] == expected
    assert [budget.steps * budget.step_size for budget in others] == pytest.approx([2.5 * 0.2] * 3)


@pytest.mark.ray
def test_workers_allocate_by_it(tmp_path: Path, shared_ray: Place) -> None:
    assert_workers_use_it(tmp_path, shared_ray, allocator=NAMED)


def test_its_classes_are_counted_by_their_names(tmp_path: Path) -> None:
    allocated = trained(tmp_path, "sync", allocator=NAMED).summary["allocated"]
    assert set(allocated) <= set(ByMargin.classes) and len(allocated) > 1
    assert sum(allocated.values()) == 4 * 64


def test_margins_that_do_not_rise_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"near = 0\.9 and certain = 0\.1"):
        trained(tmp_path, "sync", allocator={**NAMED, "options": {"near": 0.9, "certain": 0.1}})


def test_it_trains_by_the_command_that_it_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert run_command_of(ROOT / "examples" / "allocator.py", tmp_path).summary["steps"] == 2
