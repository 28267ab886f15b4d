"""HAT as an example: its loss in float64, and a frozen helper read from a run."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor, nn

from examples.hat import HAT
from sparring.objectives import Batch
from tests.support.examples import ROOT, run_command_of
from tests.support.losses_in_double import assert_is, cross_entropy, divergence, probabilities
from tests.support.own_methods import example, trained
from tests.support.runs import weights_of

NAMED = {"name": example("hat.py:HAT"), "beta": 2.5}


def written(model: nn.Module, standard: nn.Module, batch: Batch) -> Tensor:
    """The objective of Rade & Moosavi-Dezfooli with h = 1.5, β = 2.5, γ = 0.5."""
    helper_images = batch.x + 1.5 * (batch.x_adv - batch.x)
    helper_labels = standard(batch.x_adv).argmax(1)
    clean, attacked, helped = model(batch.x), model(batch.x_adv), model(helper_images)
    robust = divergence(probabilities(clean), probabilities(attacked))
    return cross_entropy(clean, batch.labels) + 2.5 * robust + 0.5 * cross_entropy(helped, helper_labels)


@pytest.mark.parametrize("weighted", [False, True])
def test_its_loss_is_that_of_the_paper(weighted: bool) -> None:
    objective = HAT("unread", beta=2.5, gamma=0.5, h=1.5)
    assert_is(objective, written, weighted=weighted, trained=False)


def test_it_is_trained_with_labels_of_the_network_that_its_option_names(tmp_path: Path) -> None:
    runs = {}
    for seed in (1, 2):
        standard = trained(tmp_path / "standard", "sync", attack={"name": "fgsm"}, train={"seed": seed}).run.path
        objective = {**NAMED, "options": {"standard": str(standard)}}
        runs[seed] = trained(tmp_path, "sync", objective=objective)
    assert weights_of(runs[1]) != weights_of(runs[2])


def test_its_commands_train_the_standard_network_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    result = run_command_of(ROOT / "examples" / "hat.py", tmp_path)
    assert result.summary["steps"] == 2 and (tmp_path / "standard").is_dir()
