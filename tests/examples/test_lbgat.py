"""LBGAT as an example: its loss in float64, and a network that is trained beside the model."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor, nn

from examples.lbgat import LBGAT
from sparring.objectives import Batch
from tests.support.examples import ROOT, run_command_of
from tests.support.losses_in_double import assert_is, cross_entropy, divergence, probabilities
from tests.support.own_methods import assert_workers_use_it, example, trained
from tests.support.runs import Place, weights_of

NAMED = {"name": example("lbgat.py:LBGAT")}


def written(model: nn.Module, natural: nn.Module, batch: Batch) -> Tensor:
    """The objective of Cui et al. with β = 2; the squared error is a mean over the classes."""
    attacked, clean, guide = model(batch.x_adv), model(batch.x), natural(batch.x)
    squared = ((attacked - guide) ** 2).sum(1) / attacked.shape[1]
    robust = divergence(probabilities(clean), probabilities(attacked))
    losses: Tensor = squared + cross_entropy(guide, batch.labels) + 2 * robust
    return losses


@pytest.mark.parametrize("weighted", [False, True])
def test_its_loss_is_that_of_the_paper_and_trains_both(weighted: bool) -> None:
    assert_is(LBGAT(beta=2.0), written, weighted=weighted, trained=True)


@pytest.mark.ray
def test_the_network_beside_is_trained_in_every_engine(tmp_path: Path, shared_ray: Place) -> None:
    assert_workers_use_it(tmp_path, shared_ray, objective={**NAMED, "beta": 0.0})


def test_its_option_chooses_the_network_beside(tmp_path: Path) -> None:
    networks = ("digits-cnn", "mnist-16-32-100")
    runs = [trained(tmp_path, "sync", objective={**NAMED, "options": {"network": name}}) for name in networks]
    assert weights_of(runs[0]) != weights_of(runs[1])


def test_it_trains_by_the_command_that_it_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert run_command_of(ROOT / "examples" / "lbgat.py", tmp_path).summary["steps"] == 2
