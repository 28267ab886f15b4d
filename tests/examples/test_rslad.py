"""RSLAD as an example: loss and attack in float64, and a teacher that the workers' attack compares with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from examples.rslad import RSLAD
from sparring.attacks import PGD, perturb
from sparring.objectives import Batch
from tests.support.examples import ROOT, run_command_of
from tests.support.losses_in_double import assert_is, batch, divergence, network, probabilities
from tests.support.own_methods import assert_workers_use_it, example, trained
from tests.support.runs import Place, weights_of

NAMED = {"name": example("rslad.py:RSLAD")}


def written(model: nn.Module, teacher: nn.Module, batch: Batch) -> Tensor:
    """The objective of Zi et al. with α = 0.3 on the clean images."""
    taught = probabilities(teacher(batch.x))
    attacked, clean = probabilities(model(batch.x_adv)), probabilities(model(batch.x))
    return 0.7 * divergence(taught, attacked) + 0.3 * divergence(taught, clean)


@pytest.mark.parametrize("weighted", [False, True])
def test_its_loss_is_that_of_the_paper(weighted: bool) -> None:
    assert_is(RSLAD("unread", alpha=0.3), written, weighted=weighted, trained=False)


def test_its_attack_maximises_the_divergence_from_the_teacher() -> None:
    """One step of ε along the sign of the gradient of the paper's inner maximisation."""
    model, teacher, x = network(1).eval(), network(2).eval(), batch(False).x
    attack = PGD(0.1, steps=1, step_size=0.1, start="zero", loss=RSLAD.attack_loss)
    delta = perturb(model, x, torch.zeros(len(x), dtype=torch.int64), attack, torch.Generator(), teacher)
    point = x.clone().requires_grad_(True)
    divergence(probabilities(teacher(x)), probabilities(model(point))).sum().backward()  # type: ignore[no-untyped-call]
    assert point.grad is not None
    expected = (x + 0.1 * point.grad.sign()).clamp(0, 1) - x
    assert torch.allclose(delta, expected, atol=1e-7, rtol=0)


@pytest.mark.ray
def test_the_workers_attack_compares_with_the_teacher(tmp_path: Path, shared_ray: Place) -> None:
    teachers = [trained(tmp_path / "teacher", "sync", train={"seed": seed}).run.path for seed in (1, 2)]
    objectives = [{**NAMED, "options": {"teacher": str(teacher)}} for teacher in teachers]
    assert_workers_use_it(tmp_path, shared_ray, objective=objectives[0])
    students = [trained(tmp_path, "sync", objective=objective) for objective in objectives]
    assert weights_of(students[0]) != weights_of(students[1])


def test_it_trains_by_the_command_that_it_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert run_command_of(ROOT / "examples" / "rslad.py", tmp_path).summary["steps"] == 2
