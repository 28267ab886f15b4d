"""Adversarial weight perturbation against a float64 transcription of the authors' loop, weights after whole steps."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparring.config import Config
from sparring.objectives import Batch
from sparring.objectives.awp import perturbed_weights
from sparring.trainer.experiment import build_experiment
from sparring.trainer.learner import Learner
from tests.support.runs import small

GAMMA, BETA, RATE, DECAY, MOMENTUM = 0.02, 3.0, 0.1, 5e-2, 0.9
BATCHES = 2


def network() -> nn.Module:
    """A filter, batch norm (whose weight has one dimension), a matrix, one that is not named weight, an unused one."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 10), Scale()
    ).double()


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mixing = nn.Parameter(torch.eye(10) + 0.01)
        self.unused = nn.Linear(10, 10)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.mixing


def batches() -> list[tuple[Tensor, Tensor, Tensor]]:
    random = torch.Generator().manual_seed(1)
    made = []
    for _ in range(BATCHES):
        x = torch.rand(16, 1, 8, 8, generator=random, dtype=torch.float64)
        noise = torch.rand(16, 1, 8, 8, generator=random, dtype=torch.float64)
        made.append((x, (x + 0.2 * (noise - 0.5)).clamp(0, 1), torch.randint(0, 10, (16,), generator=random)))
    return made


def loss_of(objective: str, model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> Tensor:
    if objective == "pgd-at":
        return F.cross_entropy(model(x_adv), y)
    adv = F.log_softmax(model(x_adv), dim=1)
    robust = F.kl_div(adv, F.softmax(model(x), dim=1), reduction="batchmean")
    return F.cross_entropy(model(x), y) + BETA * robust


def transcribed(objective: str, model: nn.Module, restore_first: bool = False) -> nn.Module:
    """The authors' AdvWeightPerturb and TradesAWP, and their step: perturb, gradient, optimizer, restore."""
    proxy = copy.deepcopy(model)
    proxy_optimizer = torch.optim.SGD(proxy.parameters(), lr=0.01)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)
    for x, x_adv, y in batches():
        model.train()
        proxy.load_state_dict(model.state_dict())
        proxy.train()
        proxy_optimizer.zero_grad()
        (-1.0 * loss_of(objective, proxy, x, x_adv, y)).backward()  # type: ignore[no-untyped-call]
        proxy_optimizer.step()
        difference = {}
        for (name, old), new in zip(model.state_dict().items(), proxy.state_dict().values(), strict=True):
            if old.dim() > 1 and "weight" in name:
                step = new - old
                difference[name] = old.norm() / (step.norm() + 1e-20) * step
        add(model, difference, GAMMA)
        optimizer.zero_grad()
        loss_of(objective, model, x, x_adv, y).backward()  # type: ignore[no-untyped-call]
        if restore_first:
            add(model, difference, -GAMMA)
        optimizer.step()
        if not restore_first:
            add(model, difference, -GAMMA)
    return model


def add(model: nn.Module, difference: dict[str, Tensor], factor: float) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in difference:
                parameter.add_(factor * difference[name])


def learned(config: Config, epoch: int = 0) -> nn.Module:
    experiment = replace(build_experiment(config), model=network())
    learner = Learner(experiment, torch.device("cpu"))
    for x, x_adv, y in batches():
        learner.learn(Batch(x, x_adv, y), epoch)
    return experiment.model


def configuration(root: Path, objective: str, **values: Any) -> Config:
    return small(
        root,
        data={"limit": 64},
        objective={"name": objective, "beta": BETA, "awp_gamma": GAMMA, **values},
        optimizer={"name": "sgd", "lr": RATE, "momentum": MOMENTUM, "weight_decay": DECAY},
        schedule={"name": "constant"},
    )


def farthest(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return max(float((left.double() - right.double()).abs().max()) for left, right in pairs)


@pytest.mark.parametrize("objective", ["pgd-at", "trades"])
def test_weights_and_statistics_after_whole_steps_are_those_of_the_authors_order(
    tmp_path: Path, objective: str
) -> None:
    ours = learned(configuration(tmp_path, objective))
    assert farthest(ours, transcribed(objective, network())) < 1e-9
    other_order = transcribed(objective, network(), restore_first=True)
    assert farthest(ours, other_order) > 1e-6, "weight decay must tell the two orders apart"


def test_batch_norm_sees_attacked_images_first_also_before_the_perturbation_begins(tmp_path: Path) -> None:
    """The running mean after passes adv, x, x is 0.9·(0.9·(0.9·m + 0.1·adv) + 0.1·x) + 0.1·x, from m = 0 here."""
    late = configuration(tmp_path, "trades", awp_warmup_epochs=2)
    experiment = replace(build_experiment(late), model=network())
    x, x_adv, y = batches()[0]
    adv, clean = (network().get_submodule("0")(images).mean((0, 2, 3)).detach() for images in (x_adv, x))
    Learner(experiment, torch.device("cpu")).learn(Batch(x, x_adv, y), 0)
    mean = experiment.model.get_buffer("1.running_mean")
    torch.testing.assert_close(mean, 0.081 * adv + 0.19 * clean, rtol=1e-9, atol=1e-12)
    assert float((mean - (0.09 * adv + 0.181 * clean)).abs().max()) > 1e-6, "the means must tell the orders apart"


def test_the_first_epochs_go_without_it(tmp_path: Path) -> None:
    late = configuration(tmp_path, "pgd-at", awp_warmup_epochs=2)
    without = learned(configuration(tmp_path, "pgd-at", awp_gamma=0.0))
    assert farthest(learned(late, epoch=1), without) == 0.0
    assert farthest(learned(late, epoch=2), without) > 1e-4
    assert farthest(learned(late, epoch=2), learned(configuration(tmp_path, "pgd-at"))) == 0.0


def test_the_perturbation_is_taken_off_where_the_step_fails() -> None:
    model = network()
    before = copy.deepcopy(model)
    with pytest.raises(ZeroDivisionError), perturbed_weights(model, {"4.weight": torch.ones(10, 108)}):
        assert farthest(model, before) == pytest.approx(1.0)
        raise ZeroDivisionError
    assert farthest(model, before) < 1e-12
