"""A run is verified from its folder: the result, the images and what is known of each example lie there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sparring
from sparring.commands import verify as module
from sparring.commands.evaluate import evaluate_run
from sparring.commands.judging import How
from sparring.commands.train import train
from sparring.commands.verify import Asked, verify_run
from sparring.config import config_of
from sparring.data import load
from sparring.errors import UsageError
from sparring.evaluation.verification import Prover
from sparring.runs import Run
from tests.support.runs import small

pytest.importorskip("highspy")
ASKED = Asked(epsilon=0.08, samples=30, timeout_s=20.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("verified")
    config = small(
        root,
        engine="sync",
        run={"name": "made"},
        model={"name": "tests.support.relu:for_digits"},
        train={"epochs": 4, "max_steps": 80, "batch_size": 64},
        attack={"steps": 2, "epsilon": 0.1},
        optimizer={"lr": 0.01},
        evaluation={"samples": 20, "steps": 2, "restarts": 1},
    )
    return train(config, progress=False).run


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process for proofs takes seconds to start; the test of the command has real ones."""

    @contextmanager
    def one_thread(prover: Prover, count: int) -> Iterator[Executor]:
        monkeypatch.setattr(module, "decide_there", prover)
        with ThreadPoolExecutor(1) as executor:
            yield executor

    monkeypatch.setattr(module, "processes_of", one_thread)


def test_the_result_and_the_counterexamples_lie_in_the_runs_folder(run: Run) -> None:
    found = verify_run(run, {}, ASKED, how=How(again=True))
    assert run.read_json("verified.json") == json.loads(json.dumps(found))
    assert (found["epsilon"], found["trained_epsilon"], found["norm"], found["samples"]) == (0.08, 0.1, "linf", 30)
    assert found["drawn"].endswith("each class in its share") and found["checkpoint"].startswith("step-")
    assert found["counts"]["broken"] > 0 < found["counts"]["verified"]
    with np.load(found["counterexamples"]) as kept:
        images, labels, examples = torch.from_numpy(kept["images"]), kept["labels"], kept["examples"]
    test = load(config_of(run).data, "test")
    clean = test.images(torch.from_numpy(examples)).double() / 255
    assert len(images) == found["counts"]["broken"] and ((images - clean).abs() <= 0.08 + 1e-7).all()
    assert (sparring.load_model(run.path)(images).argmax(1).numpy() != labels).all()


def test_a_radius_that_no_image_of_8_bits_can_hold_is_told(run: Run) -> None:
    for epsilon, told in ((0.0004, True), (0.002, False)):
        found = verify_run(run, {}, Asked(epsilon=epsilon, samples=2, timeout_s=20.0))
        assert any("less than half a grey level" in text for text in found["warnings"]) == told


def test_no_attack_breaks_what_is_verified(run: Run) -> None:
    found = verify_run(run, {}, ASKED)
    changes = {"attack.epsilon": "0.08", "evaluation.attack": "autoattack", "evaluation.samples": "30"}
    attacked = evaluate_run(run, changes)
    assert found["verified_accuracy"] <= attacked["robust_accuracy"] and found["drawn"] == attacked["drawn"]
    assert found["clean_accuracy"] == attacked["clean_accuracy"]


def test_what_is_known_is_not_made_again_nor_taken_for_another_radius(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = verify_run(run, {}, ASKED)

    def not_asked(*_: Any, **__: Any) -> None:
        raise AssertionError("all is known")

    with monkeypatch.context() as patched:
        patched.setattr(Prover, "__call__", not_asked)
        assert verify_run(run, {}, ASKED)["examples"] == first["examples"]
        assert verify_run(run, {}, Asked(0.08, 10, 20.0), how=How(resume=True))["samples"] == 10
        with pytest.raises(UsageError, match=r"--resume: .* holds no verdicts"):
            verify_run(run, {}, Asked(0.03, 10), how=How(resume=True))
    small_one = verify_run(run, {}, Asked(0.001, 30, 20.0))
    assert small_one["verified_accuracy"] >= first["verified_accuracy"]
    assert verify_run(run, {}, Asked(samples=3))["epsilon"] == 0.1, "the training's by default"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"epsilon": 0.0}, "--epsilon 0: a radius above 0"),
        ({"epsilon": 1.5}, "--epsilon 1.5: a radius above 0"),
        ({"timeout_s": 0.0}, "--timeout-s 0: more than 0"),
        ({"samples": 0}, "--samples 0: at least 1"),
        ({"processes": 0}, "--processes 0: at least 1"),
    ],
)
def test_values_out_of_bounds_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Asked(**given)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"evaluation.attack": "autoattack"}, "--evaluation.attack has no effect here"),
        ({"workers.count": "2"}, "--workers: proofs are made by processes of this machine"),
        ({"attack.epsilon": "0.2"}, "--attack.epsilon cannot change here"),
    ],
)
def test_settings_without_effect_are_refused(run: Run, changes: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        verify_run(run, changes, ASKED)


def test_a_run_under_another_norm_needs_a_radius(tmp_path: Path) -> None:
    config = small(
        tmp_path,
        engine="sync",
        model={"name": "tests.support.relu:for_digits"},
        train={"max_steps": 1},
        attack={"steps": 1, "epsilon": 0.5, "norm": "l2"},
        evaluation={"samples": 5, "steps": 1, "restarts": 1},
    )
    made = train(config, progress=False).run
    with pytest.raises(UsageError, match=r"attack\.norm = 'l2': proofs are for balls under L∞.* Give --epsilon"):
        verify_run(made, {}, Asked(samples=2))
    assert verify_run(made, {}, Asked(0.001, 2))["samples"] == 2
