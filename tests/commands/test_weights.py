"""A file of weights is judged as the run is that it comes from, or refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sparring.commands.evaluate import evaluate_run
from sparring.commands.judging import How
from sparring.commands.train import train
from sparring.commands.weights import evaluate_weights
from sparring.errors import UsageError
from sparring.runs import Run
from sparring.trainer import checkpoints
from tests.support.runs import small

CHEAP = {"evaluation.samples": "60", "evaluation.steps": "3", "evaluation.restarts": "2"}
RADIUS = {"attack.epsilon": "0.1"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(small(tmp_path_factory.mktemp("run"), engine="sync"), progress=False).run


@pytest.fixture
def file(run: Run, tmp_path: Path) -> Path:
    """The run's weights as another training script saves them."""
    path = checkpoints.latest(run.checkpoints)
    assert path is not None
    tensors = load_file(path / "model.safetensors")
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in tensors.items()}}, tmp_path / "own.pt")
    return tmp_path / "own.pt"


def test_its_figures_are_those_of_the_run_and_its_verdicts_are_kept_beside_it(run: Run, file: Path) -> None:
    found, expected = evaluate_weights(file, CHEAP | RADIUS, How()), evaluate_run(run, CHEAP | RADIUS)
    for name in ("clean_accuracy", "robust_accuracy", "by_class", "attack", "samples", "broken_by"):
        assert found[name] == expected[name], name
    assert found["known"] == 0 and evaluate_weights(file, CHEAP | RADIUS, How(resume=True))["known"] > 0
    assert len(list(file.with_name("own.pt.verdicts").iterdir())) == 1


def test_verdicts_beside_a_checkpoint_do_not_damage_it(run: Run) -> None:
    path = checkpoints.latest(run.checkpoints)
    assert path is not None
    evaluate_weights(path / "model.safetensors", CHEAP | RADIUS, How())
    assert checkpoints.damage(path) == ""


def test_what_is_missing_or_of_another_network_is_refused(file: Path, run: Run) -> None:
    with pytest.raises(UsageError, match=r"name the radius .* --attack\.epsilon"):
        evaluate_weights(file, CHEAP, How())
    with pytest.raises(UsageError, match=r"of another network than model\.name"):
        evaluate_weights(file, CHEAP | RADIUS | {"model.name": "mnist-16-32-100"}, How())
    command = [sys.executable, "-m", "sparring", "evaluate", str(file), "--attack.epsilon", "0.1", "--best"]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 2 and "--best: " in refused.stderr
