"""The moving average of the weights: its recurrence, that it survives, and that it is evaluated apart."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sparring.commands.evaluate import evaluate_run, open_trained
from sparring.commands.export import model_info
from sparring.commands.train import Result, resume, train
from sparring.config import new_run
from sparring.errors import NonFinite, Overfitted, UsageError
from sparring.evaluation.autoattack import describe
from sparring.trainer import averaging, checkpoints
from sparring.trainer.experiment import build_experiment
from sparring.trainer.session import Session
from tests.support.runs import small, stopped_at
from tests.support.shards import shard_of

EMA: dict[str, Any] = {"engine": "sync", "train": {"epochs": 1, "max_steps": 12, "batch_size": 64, "ema": 0.9}}


def test_the_average_follows_the_recurrence_of_the_authors() -> None:
    """Transcribed from their code: tau, warm-up of 2.5 % of the steps, dynamic decay; statistics copied."""
    random, total, tau = torch.Generator().manual_seed(0), 200, 0.8
    convolution, norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)
    model = nn.Sequential(convolution, norm)
    average = copy.deepcopy(model)
    expected = [each.detach().double().numpy() for each in model.parameters()]
    for step in range(1, total + 1):
        with torch.no_grad():
            for tensor in (*model.parameters(), *(each for each in model.buffers() if each.is_floating_point())):
                tensor.add_(torch.randn(tensor.shape, generator=random))
        averaging.update(average, model, averaging.decay_at(tau, step, total))
        later = step - 0.025 * total
        decay = min(tau, (1.0 + later) / (10.0 + later)) * int(step >= 0.025 * total)
        weights = [each.detach().double().numpy() for each in model.parameters()]
        expected = [decay * mean + (1 - decay) * weight for mean, weight in zip(expected, weights, strict=True)]
        for mean, wanted in zip(average.parameters(), expected, strict=True):
            np.testing.assert_allclose(mean.detach().numpy(), wanted, rtol=0, atol=1e-5)
        for own, buffer in zip(average.buffers(), model.buffers(), strict=True):
            assert torch.equal(own, buffer)
    assert not torch.equal(next(average.parameters()), convolution.weight)


def average_of(result: Result) -> bytes:
    path = checkpoints.latest(result.run.checkpoints)
    assert path is not None
    return (path / checkpoints.AVERAGE).read_bytes()


def test_the_average_survives_a_stop_bit_by_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparring.trainer.recorder.REPORT_EVERY_S", 0.0)
    whole = train(small(tmp_path / "whole", **EMA))
    run = stopped_at(6, tmp_path / "stopped", **EMA)
    assert average_of(resume(run.path)) == average_of(whole)


def made(session: Session, number: int) -> None:
    """One step of the session on its `number`-th ticket."""
    learner, plan = session.learner, session.plan
    key = plan.steps(0, {}).__next__()[0]._replace(number=number)
    session.learn([shard_of(session.experiment, key, learner.controls(), learner.step, learner.model)])


@pytest.mark.parametrize(("saved", "guard"), [(True, "off"), (False, "off"), (True, "rollback")])
def test_a_rollback_takes_the_average_back_too(tmp_path: Path, saved: bool, guard: str) -> None:
    experiment = build_experiment(small(tmp_path, **EMA, guard={"overfitting": guard}))
    session = Session(experiment, new_run(experiment.config), torch.device("cpu"))
    average = session.learner.average
    assert average is not None
    if saved:
        made(session, 0)
        made(session, 1)
        session.guard_against_overfitting()
        session.save()
    before = {name: tensor.clone() for name, tensor in average.state_dict().items()}
    made(session, 2)
    assert not all(torch.equal(tensor, before[name]) for name, tensor in average.state_dict().items())
    session.roll_back(NonFinite("loss nan") if guard == "off" else Overfitted("robust accuracy has fallen"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in average.state_dict().items())


def test_both_are_evaluated_at_the_end_and_either_can_be_afterwards(tmp_path: Path) -> None:
    result = train(small(tmp_path, **EMA, evaluation={"steps": 2, "restarts": 1, "samples": 200}))
    summary = result.summary
    assert summary["clean_accuracy"] != summary["ema_clean_accuracy"]
    for prefix, weights in (("", "plain"), ("ema_", "ema")):
        reported = evaluate_run(result.run, {"evaluation.weights": weights})
        assert reported["weights"] == weights and reported["samples"] == summary["samples"] == 200
        assert reported["clean_accuracy"] == summary[f"{prefix}clean_accuracy"]
        assert reported["robust_accuracy"] == summary[f"{prefix}robust_accuracy"]
        assert list(reported["robust_interval"]) == list(summary[f"{prefix}robust_interval"])


def test_an_average_is_exported_with_its_own_figures(tmp_path: Path) -> None:
    run = train(small(tmp_path, **EMA)).run
    summary = run.read_json("summary.json") or {}
    attack = describe("linf", 0.2, 10)
    evaluation = {"attack": attack, "clean_accuracy": 0.9, "robust_accuracy": 0.4, "ema_clean_accuracy": 0.8}
    run.write_json("summary.json", {**summary, **evaluation, "ema_robust_accuracy": 0.5})
    for weights, figures in (("plain", ("90.00", "40.00")), ("ema", ("80.00", "50.00"))):
        made = open_trained(run, {"evaluation.weights": weights})
        info = model_info(made, run)
        assert (info["clean_acc"], info["autoattack_acc"]) == figures


def test_a_run_without_an_average_says_so(tmp_path: Path) -> None:
    result = train(small(tmp_path, engine="sync", train={"max_steps": 1}))
    assert result.summary["ema_clean_accuracy"] is None
    with pytest.raises(UsageError, match=r"evaluation\.weights = 'ema': .* train\.ema unset"):
        evaluate_run(result.run, {"evaluation.weights": "ema"})


def test_the_best_checkpoint_is_chosen_by_the_average(tmp_path: Path) -> None:
    experiment = build_experiment(small(tmp_path, **EMA, data={"holdout": 100}))
    session = Session(experiment, new_run(experiment.config), torch.device("cpu"))
    assert session.learner.average is not None
    for _ in range(40):
        made(session, 0)
    assert session.measure_heldout() and (session.state.clean_accuracy or 0) > 0.2
    with torch.no_grad():
        for parameter in session.learner.average.parameters():
            parameter.zero_()
    assert not session.measure_heldout()
    assert (session.state.clean_accuracy or 0) < 0.2, "ten classes, and all logits 0"
