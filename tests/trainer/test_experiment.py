"""A recipe is resolved once: what cannot work is refused before a run has a folder, whoever wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sparring.commands.evaluate import open_trained
from sparring.commands.train import resume, train
from sparring.config import from_tree
from sparring.errors import UsageError
from sparring.trainer.experiment import build_experiment
from tests.support.runs import small, weights_of

NORMALISED = {"data": {"mean": [0.3], "std": 0.5, "holdout": 100}, "model": {"name": "mnist-16-32-100"}}
HELPED = """
import torch
from sparring.models.convolutional import digits_cnn
from sparring.objectives import Helper, Objective

class Helped(Objective):
    def helper(self, shape, classes):
        return {helper}
"""


def test_data_mean_and_std_are_a_part_of_what_is_trained_resumed_and_evaluated(tmp_path: Path) -> None:
    config = small(tmp_path, engine="sync", **NORMALISED, train={"epochs": 1, "max_steps": None, "batch_size": 256})
    whole = train(config)
    model = open_trained(whole.run, {}).model
    assert model.get_buffer("normalize.mean").flatten().tolist() == pytest.approx([0.3])
    x = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(model.eval()(x), model.get_submodule("network")((x - 0.3) / 0.5))
    with pytest.raises(UsageError, match=r"data\.std cannot change on resume"):
        resume(whole.run.path, {"data.std": 0.25})
    assert weights_of(whole) == weights_of(train(config))


@pytest.mark.parametrize(
    ("groups", "problem"),
    [
        ({"schedule": {"name": "{folder}/own.py:negative"}}, "gives -1.0 at progress 0"),
        ({"schedule": {"options": {"slope": 1}}}, "schedule.options.slope = 1: no such option; one_cycle takes no"),
        ({"model": {"name": "{folder}/own.py:nothing"}}, "own.py has no 'nothing'; the nearest is"),
        ({"data": {"name": "{folder}/own.py:negative"}}, "has no parameter `split`"),
        ({"data": {"mean": 0.5, "std": 0.5}}, "already normalises its images"),
    ],
)
def test_what_cannot_work_is_refused_before_there_is_a_folder(
    tmp_path: Path, groups: dict[str, Any], problem: str
) -> None:
    (tmp_path / "own.py").write_text("def negative():\n    return lambda peak, progress: -1.0\n")
    for group in groups.values():
        group.update({name: value.format(folder=tmp_path) for name, value in group.items() if name == "name"})
    runs = tmp_path / "runs"
    with pytest.raises(UsageError) as raised:
        train(small(runs, engine="sync", **groups))
    assert problem in str(raised.value) and not runs.exists()


def test_the_training_set_is_that_which_is_left_by_the_holdout() -> None:
    parts = build_experiment(from_tree({"data": {"holdout": 200, "limit": 1000}}))
    assert (len(parts.training), len(parts.heldout)) == (800, 200)
    assert parts.training.batch(torch.arange(3), 0)[0].shape == (3, 1, 8, 8)


@pytest.mark.parametrize(
    ("helper", "problem"),
    [
        ("Helper(digits_cnn(shape, 7))", "returns outputs of shape (1, 7) for one image; (1, 10) is needed"),
        ("Helper(torch.nn.Linear(3, 10))", "cannot take images of shape (1, 8, 8) (RuntimeError: "),
        ("1 / 0", "cannot be made (ZeroDivisionError: division by zero, own.py:"),
    ],
)
def test_a_helper_network_that_does_not_fit_is_refused(tmp_path: Path, helper: str, problem: str) -> None:
    objective = tmp_path / "own.py"
    objective.write_text(HELPED.format(helper=helper))
    config = from_tree({"objective": {"name": f"{objective}:Helped"}})
    with pytest.raises(UsageError) as raised:
        build_experiment(config)
    assert str(raised.value).startswith(f"objective.name = '{objective}:Helped': its helper network {problem}")


def test_a_helper_network_begins_with_weights_of_its_own_that_follow_from_the_seed(tmp_path: Path) -> None:
    objective = tmp_path / "own.py"
    objective.write_text(HELPED.format(helper="Helper(digits_cnn(shape, classes), trained=True)"))
    made = []
    for seed in (1, 1, 2):
        before = torch.get_rng_state()
        tree = {"objective": {"name": f"{objective}:Helped"}, "train": {"seed": seed}}
        experiment = build_experiment(from_tree(tree))
        assert torch.equal(torch.get_rng_state(), before) and experiment.helper is not None
        made += [next(network.parameters()) for network in (experiment.helper.network, experiment.model)]
    assert torch.equal(made[0], made[2]) and not torch.equal(made[0], made[4])
    assert not torch.equal(made[0], made[1])
