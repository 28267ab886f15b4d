"""Which parameters decay, and what becomes of a step whose fp16 gradients overflow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sparring.commands.train import resume, train
from sparring.config import OptimizerSettings
from sparring.errors import NonFinite, SparringError
from sparring.models.forward import plain
from sparring.queue.messages import Controls, Key
from sparring.trainer import checkpoints
from sparring.trainer.experiment import Experiment, build_experiment
from sparring.trainer.learner import Learner
from sparring.trainer.optimizers import decay_groups, make_optimizer
from tests.support.runs import small, stopped_at, weights_of
from tests.support.shards import shard_of

# A small network and few attack steps: half precision is slow on most CPUs.
HALF: dict[str, Any] = {
    "engine": "sync",
    "model": {"name": "mnist-16-32-100", "precision": "fp16"},
    "attack": {"steps": 1, "warmup_epochs": 0.5},
    "train": {"epochs": 1, "max_steps": 12, "batch_size": 8},
}


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.GroupNorm(1, 2), nn.Flatten(), nn.LayerNorm(8), nn.Linear(8, 3)
    )


def test_scales_and_shifts_of_normalisation_layers_are_the_ones_without_decay() -> None:
    model = network()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, undecayed = decay_groups(model, decay_norm=False)
    assert undecayed["weight_decay"] == 0 and "weight_decay" not in decayed
    assert [names[id(each)] for each in decayed["params"]] == ["0.weight", "0.bias", "5.weight", "5.bias"]
    assert {names[id(each)].split(".")[0] for each in undecayed["params"]} == {"1", "2", "4"}
    assert len(decayed["params"]) + len(undecayed["params"]) == len(list(model.parameters()))
    assert len(decay_groups(model, decay_norm=True)) == 1


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("decay_norm", [True, False])
def test_decay_moves_what_it_should(name: str, decay_norm: bool) -> None:
    model = network()
    settings = {"name": name, "lr": 0.1, "weight_decay": 0.5, "momentum": 0.0, "decay_norm": decay_norm}
    optimizer = make_optimizer(OptimizerSettings.model_validate(settings), model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    moved = {key for key, value in model.named_parameters() if not torch.equal(value, before[key])}
    assert {"0.weight", "0.bias", "5.weight", "5.bias"} <= moved
    assert ("1.weight" in moved) is decay_norm and ("4.weight" in moved) is decay_norm


def learner_of(experiment: Experiment) -> Learner:
    return Learner(experiment, torch.device("cpu"))


def learn(learner: Learner, experiment: Experiment, number: int) -> Any:
    key = next(keys for i, keys in enumerate(experiment.plan.steps(0, {})) if i == number)[0]
    shard = shard_of(experiment, key, learner.controls(), learner.step, learner.model)
    return learner.learn(learner.batch([shard]), key.epoch)


def test_a_step_whose_scaled_gradients_overflow_is_skipped_and_the_next_one_is_made(tmp_path: Path) -> None:
    experiment = build_experiment(small(tmp_path, **HALF))
    learner = learner_of(experiment)
    learner.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, backoff_factor=2.0**-35)
    before = [parameter.clone() for parameter in learner.model.parameters()]
    result = learn(learner, experiment, 0)
    assert result.skipped and learner.step == 1 and learner.scaler.get_scale() == 2.0**5
    assert all(torch.equal(now, then) for now, then in zip(learner.model.parameters(), before, strict=True))
    assert not learn(learner, experiment, 1).skipped
    assert not any(torch.equal(now, then) for now, then in zip(learner.model.parameters(), before, strict=True))


def test_a_gradient_that_overflows_at_the_least_scale_is_a_failure(tmp_path: Path) -> None:
    experiment = build_experiment(small(tmp_path, **HALF))
    learner = learner_of(experiment)
    learner.scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    plain(learner.model)[-1].weight.register_hook(lambda gradient: gradient * torch.inf)  # type: ignore
    with pytest.raises(NonFinite, match=r"gradient norm .* not the learning rate: look in the model .* 'bf16'"):
        learn(learner, experiment, 0)
    learner.restore(0, learner.optimizer.state_dict(), scaler=learner.scaler.state_dict())
    with pytest.raises(SparringError, match="gradient norm"):
        learn(learner, experiment, 0)  # and not that the scaler was left in the middle of a step


def test_the_gradient_of_an_fp16_step_is_nearly_that_of_float32(tmp_path: Path) -> None:
    gradients = []
    for precision in ("fp32", "fp16"):
        config = small(tmp_path, **{**HALF, "model": {**HALF["model"], "precision": precision}})
        experiment = build_experiment(config)
        learner = learner_of(experiment)
        learn(learner, experiment, 0)
        gradients.append(torch.cat([each.grad.flatten() for each in learner.model.parameters()]))  # type: ignore
    exact, half = gradients
    assert float((half - exact).norm() / exact.norm()) < 0.02


def test_an_fp16_run_resumes_to_the_same_weights_and_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparring.trainer.recorder.REPORT_EVERY_S", 0.0)
    whole = train(small(tmp_path / "whole", **HALF))
    run = stopped_at(6, tmp_path / "stopped", **HALF)
    resumed = resume(run.path)
    assert weights_of(resumed) == weights_of(whole)
    states = [checkpoints.load_state(checkpoints.latest(each.run.checkpoints)) for each in (whole, resumed)]  # type: ignore
    assert states[0].learner["scaler"] == states[1].learner["scaler"] and states[0].learner["scaler"]["scale"] > 0
    assert resumed.summary["rollbacks"] == 0 and resumed.summary["skipped_steps"] == whole.summary["skipped_steps"]


def test_after_the_first_step_and_for_a_step_that_overflows_itself_the_rate_is_the_remedy(tmp_path: Path) -> None:
    learner = learner_of(build_experiment(small(tmp_path, engine="sync")))
    with pytest.raises(NonFinite, match=r"movement of the weights inf at step 0 .*Lower optimizer\.lr"):
        learner.require_finite("movement of the weights", float("inf"), 0.1)
    learner.step = 1
    with pytest.raises(NonFinite, match=r"loss nan at step 1 .*Lower optimizer\.lr"):
        learner.require_finite("loss", float("nan"), 0.1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_noise_is_that_of_each_ticket_in_the_ball_of_its_attack(tmp_path: Path, norm: str) -> None:
    groups: dict[str, Any] = {"objective": {"name": "grad-align"}, "attack": {"epsilon": 0.2, "norm": norm, "steps": 1}}
    experiment = build_experiment(small(tmp_path, engine="sync", **groups))
    learner = learner_of(experiment)
    shards = [shard_of(experiment, Key(0, number, 0), Controls(epsilon), 0) for number, epsilon in ((0, 0.2), (1, 0.1))]
    again = replace(shards[1], key=Key(0, 1, 3), version=5)
    together, alone = learner.batch(shards).noise, [learner.batch([each]).noise for each in (shards[0], again)]
    assert together is not None and torch.equal(together, torch.cat([each for each in alone if each is not None]))
    lengths = torch.linalg.vector_norm(together.flatten(1), float("inf") if norm == "linf" else 2.0, dim=1)
    for part, epsilon in zip(torch.split(lengths, [len(each.labels) for each in shards]), (0.2, 0.1), strict=True):
        assert 0.9 * epsilon < part.max() <= epsilon * (1 + 1e-6)
    plain_one = learner_of(build_experiment(small(tmp_path, engine="sync")))
    assert plain_one.batch([shard_of(plain_one.experiment, Key(0, 0, 0), Controls(0.2), 0)]).noise is None


@pytest.mark.parametrize(
    "claim",
    [{"norm": "l\0"}, {"norm": "l2"}, {"name": "fgsm"}, {"radius": 0.5}, {"epsilon": 0.5, "radius": 0.5}],
    ids=str,
)
def test_a_shard_that_this_recipes_attack_cannot_have_made_is_refused(tmp_path: Path, claim: dict[str, Any]) -> None:
    experiment = build_experiment(small(tmp_path, engine="sync", attack={"epsilon": 0.2}))
    learner, key = learner_of(experiment), Key(0, 0, 0)
    for controls in (Controls(0.2), Controls(0.05), Controls(0.05, pgd_steps=20)):
        learner.batch([shard_of(experiment, key, controls, 0)])
    shard = shard_of(experiment, key, Controls(0.05), 0)
    with pytest.raises(SparringError, match=r"was made by .*, attack\.name = 'pgd' is .* Give every host the same"):
        learner.batch([replace(shard, attack=shard.attack._replace(**claim))])


def test_a_loss_that_does_not_depend_on_the_weights_is_no_gradient(tmp_path: Path) -> None:
    experiment = build_experiment(small(tmp_path, engine="sync"))
    learner = learner_of(experiment)
    assert not learn(learner, experiment, 0).no_gradient
    learner.peers.share = 0.0  # the factor on the loss
    assert learn(learner, experiment, 1).no_gradient


def test_drift_is_the_way_of_the_weights_between_two_steps_over_their_norm(tmp_path: Path) -> None:
    experiment = build_experiment(small(tmp_path, engine="virtual"))
    learner, flat = learner_of(experiment), []
    for number in range(3):
        flat.append(nn.utils.parameters_to_vector(learner.model.parameters()).detach().clone())
        learn(learner, experiment, number)
    now = nn.utils.parameters_to_vector(learner.model.parameters()).detach()
    way = (flat[1] - flat[0]).norm() + (flat[2] - flat[1]).norm()
    assert learner.drift(0, 2) == pytest.approx(float(way / now.norm()), rel=1e-5)
    assert learner.drift(2, 2) == 0.0
