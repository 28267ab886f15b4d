"""Carlini and Wagner's attack against margins that are known, and against an independent implementation."""

from __future__ import annotations

import eagerpy
import foolbox
import pytest
import torch
from torch import Tensor, nn

from sparring.attacks import frozen
from sparring.config import DataSettings
from sparring.data import load
from sparring.evaluation import carlini_wagner as carlini_wagner_module
from sparring.evaluation.carlini_wagner import STEPS, carlini_wagner
from sparring.evaluation.margins import misclassified, sizes_of, smallest
from sparring.evaluation.tickets import examples_at
from tests.support.judged import network
from tests.support.linear import exact, examples, linear


@pytest.mark.parametrize("classes", [2, 4])
def test_the_margin_of_a_linear_network_is_found_and_never_undercut(classes: int) -> None:
    model = linear(classes)
    x, labels = examples(model)
    known = exact(model, x, labels, "l2")
    found = smallest(model, x, labels, "l2", classes, steps=200, seed=0, attack="cw")
    assert (found >= known * (1 - 1e-3) - 1e-6).all(), "what is smaller than the margin breaks nothing"
    assert (found <= known * 1.003 + 1e-6).all()


@pytest.mark.timeout(400)
def test_its_sizes_are_those_of_foolboxs_on_a_small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """With six searches each for the time; with fewer steps neither has arrived: pixels of 0 leave the flat end of tanh
    by a rate's length a step."""
    monkeypatch.setattr(carlini_wagner_module, "SEARCHES", 6)
    model = network()
    x, y = examples_at(load(DataSettings(name="digits"), "test"), range(6))
    right = ~misclassified(model, x, y)
    x, y = x[right], y[right]
    with frozen(model):
        ours = sizes_of(carlini_wagner(model, x, y) - x, "l2")
    theirs = foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=6, steps=STEPS)
    _, clipped, success = theirs(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y, epsilons=None)
    reference = sizes_of(eagerpy.astensor(clipped).raw - x, "l2")
    assert success.all() and len(x) > 3
    assert torch.allclose(ours, reference, rtol=0.01)


def test_images_stay_in_their_range_and_are_misclassified() -> None:
    model = network()
    x, y = examples_at(load(DataSettings(name="digits"), "test"), range(16))
    with frozen(model):
        found = carlini_wagner(model, x, y, steps=200)
    assert float(found.min()) >= 0 and float(found.max()) <= 1
    assert misclassified(model, found, y).float().mean() > 0.9


def test_where_nothing_breaks_the_image_comes_back_as_it_was() -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 0 * x.flatten(1)[:, :3] + torch.tensor([1.0, 0.0, 0.0])

    x = torch.rand(4, 1, 4, 4)
    assert torch.equal(carlini_wagner(Constant(), x, torch.zeros(4, dtype=torch.int64), steps=20), x)
    sizes = smallest(Constant(), x, torch.zeros(4, dtype=torch.int64), "l2", 3, 20, 0, "cw")
    assert sizes.isinf().all()


def test_a_gradient_that_is_not_finite_moves_nothing_else() -> None:
    class Root(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            flat = x.flatten(1)
            return torch.stack([flat[:, 0].sqrt() + 0.1, flat[:, 1]], 1)

    x = torch.tensor([0.0, 0.05] + 14 * [0.5]).view(1, 1, 4, 4)
    found = carlini_wagner(Root(), x, torch.zeros(1, dtype=torch.int64), steps=200)
    assert found.isfinite().all() and bool(misclassified(Root(), found, torch.zeros(1, dtype=torch.int64)).all())
