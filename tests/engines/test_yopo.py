"""YOPO against transcriptions of its loop in float64, what its records tell, and what its run refuses.

The network of these tests computes in float64, the perturbation is float32 on both sides: so only the order of sums
differs, and the weights agree to 1e-10.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparring.commands.train import train
from sparring.config import Config
from sparring.errors import UsageError
from sparring.randomness import generator
from sparring.trainer import checkpoints
from sparring.trainer.experiment import build_experiment
from tests.support.runs import small

EPSILON, RATE, DECAY, M, N, BATCHES = 0.1, 0.05, 1e-3, 3, 2, 3
ALPHA = 2.5 * EPSILON / (M * N)


class Cast(nn.Module):
    """To float64."""

    def forward(self, x: Tensor) -> Tensor:
        return x.double()


def double(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The first layer is a convolution with softplus, so that its gradient changes from step to step."""
    inner = shape[1] * shape[2] * 2
    layers = [Cast(), nn.Conv2d(shape[0], 2, 3, padding=1), nn.Softplus(), nn.Flatten(), nn.Linear(inner, classes)]
    return nn.Sequential(*layers).double()


def normed(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Batch norm in the first layer."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(shape[0], 2, 3), nn.BatchNorm2d(2)), nn.Flatten(), nn.Linear(72, classes)
    )


def yopo(root: Path, **groups: Any) -> Config:
    """150 digits: batches of 64, 64 and 22, twice."""
    tree: dict[str, Any] = {
        "engine": "sync",
        "data": {"limit": 150},
        "model": {"name": f"{__name__}:double"},
        "train": {"epochs": 2, "max_steps": None, "batch_size": 64},
        "attack": {"name": "pgd", "epsilon": EPSILON, "steps": M * N, "warmup_epochs": 0},
        "yopo": {"passes": M, "inner_steps": N, "first_layer": "2"},
        "optimizer": {"name": "sgd", "lr": RATE, "momentum": 0.0, "weight_decay": DECAY},
        "schedule": {"name": "constant"},
    }
    for group, values in groups.items():
        tree[group] = {**tree.get(group, {}), **values} if isinstance(values, dict) else values
    return small(root, **tree)


class Transcription:
    """f₀(x) = softplus(conv(x; W₀, b₀)), g(h) = W h + b."""

    def __init__(self, config: Config) -> None:
        self.experiment = build_experiment(config)
        self.w = [parameter.detach().clone().requires_grad_() for parameter in self.experiment.model.parameters()]

    def first(self, x: Tensor) -> Tensor:
        return F.softplus(F.conv2d(x.double(), self.w[0], self.w[1], padding=1))

    def rest(self, h: Tensor) -> Tensor:
        return h.flatten(1) @ self.w[2].T + self.w[3]

    def examples(self, epoch: int, number: int) -> tuple[Tensor, Tensor]:
        return self.experiment.training.batch(torch.tensor(self.experiment.plan.indices(epoch, number)), epoch)

    def inner(self, x: Tensor, delta: Tensor, p: Tensor, norm: str) -> Tensor:
        """n steps along ∂⟨p, f₀(x + δ)⟩/∂δ, in float32 as images are."""
        for _ in range(N):
            point = (x + delta).requires_grad_()
            (g,) = torch.autograd.grad((p * self.first(point)).sum(), point)
            if norm == "linf":
                moved = (delta + torch.tensor(ALPHA) * g.sign()).clamp(-EPSILON, EPSILON)
            else:
                lengths = g.double().flatten(1).norm(dim=1).view(-1, 1, 1, 1)
                moved = delta + (ALPHA * g.double() / lengths).float()
                moved = moved * (EPSILON / moved.flatten(1).norm(dim=1).view(-1, 1, 1, 1)).clamp_max(1.0)
            delta = (x + moved).clamp(0, 1) - x
        return delta

    def descend(self, gradients: list[Tensor]) -> None:
        with torch.no_grad():
            for weight, gradient in zip(self.w, gradients, strict=True):
                weight -= RATE * (gradient + DECAY * weight)


def uniform(x: Tensor, epoch: int, number: int, norm: str) -> Tensor:
    random = generator(0, "attack", epoch, number)
    if norm == "linf":
        noise = EPSILON * (torch.rand(x.shape, generator=random) * 2 - 1)
    else:
        way = torch.randn(x.shape, generator=random)
        far = EPSILON * torch.rand(len(x), generator=random) ** (1 / x[0].numel())
        noise = way * (far / way.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)
    return (x + noise).clamp(0, 1) - x


def by_the_authors_loop(config: Config, norm: str) -> list[Tensor]:
    """For the cross-entropy: the mean of the gradients of m passes, and the first layer's second one."""
    made = Transcription(config)
    for epoch in range(2):
        for number in range(BATCHES):
            x, y = made.examples(epoch, number)
            delta, sums = uniform(x, epoch, number, norm), [torch.zeros_like(weight) for weight in made.w]
            for _ in range(M):
                h = made.first(x + delta)
                loss = F.cross_entropy(made.rest(h), y)
                p, *of_weights = torch.autograd.grad(loss, [h, *made.w])
                delta = made.inner(x, delta, p, norm)
                of_first = torch.autograd.grad((p * made.first(x + delta)).sum(), made.w[:2])
                for place, gradient in enumerate([*of_weights, *of_first]):
                    sums[place % 4] += gradient
            made.descend([gradient / M for gradient in sums])
    return made.w


def by_the_loop_of_trades(config: Config) -> list[Tensor]:
    """The divergence's adjoint makes δ; then one step on CE(clean) + 6·KL(clean ‖ attacked)."""
    made = Transcription(config)
    for epoch in range(2):
        for number in range(BATCHES):
            x, y = made.examples(epoch, number)
            delta = 0.001 * torch.randn(x.shape, generator=generator(0, "attack", epoch, number))
            clean = made.rest(made.first(x)).detach().log_softmax(1)
            for _ in range(M):
                h = made.first(x + delta)
                divergence = F.kl_div(made.rest(h).log_softmax(1), clean, log_target=True, reduction="sum")
                (p,) = torch.autograd.grad(divergence, h)
                delta = made.inner(x, delta, p, "linf")
            clean, adv = made.rest(made.first(x)), made.rest(made.first(x + delta)).log_softmax(1)
            divergence = F.kl_div(adv, clean.log_softmax(1), log_target=True, reduction="batchmean")
            loss = F.cross_entropy(clean, y) + 6.0 * divergence
            made.descend(list(torch.autograd.grad(loss, made.w)))
    return made.w


def trained(config: Config) -> list[Tensor]:
    """The weights at the run's end."""
    result, ours = train(config), build_experiment(config).model
    path = checkpoints.latest(result.run.checkpoints)
    assert path is not None and result.phase == "finished"
    before = nn.utils.parameters_to_vector(ours.parameters()).clone()
    checkpoints.load_weights(path, ours)
    assert (nn.utils.parameters_to_vector(ours.parameters()) - before).abs().max() > 1e-3, "they moved"
    return list(ours.parameters())


def assert_equal(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-10) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == torch.float64 and torch.allclose(ours, theirs, rtol=0, atol=tolerance)


def test_with_the_cross_entropy_the_weights_are_those_of_the_authors_loop(tmp_path: Path) -> None:
    config = yopo(tmp_path)
    assert_equal(trained(config), by_the_authors_loop(config, "linf"))


def test_under_l2_a_step_follows_the_normalised_gradient(tmp_path: Path) -> None:
    config = yopo(tmp_path, attack={"norm": "l2"})
    assert_equal(trained(config), by_the_authors_loop(config, "l2"), 1e-7)  # norms are rounded to float32


def test_with_trades_the_passes_make_the_perturbation_alone(tmp_path: Path) -> None:
    config = yopo(tmp_path, objective={"name": "trades", "beta": 6.0})
    assert_equal(trained(config), by_the_loop_of_trades(config))


def test_batches_of_several_tickets_are_those_of_each_ticket(tmp_path: Path) -> None:
    """Two tickets of 32 begin as they would alone, so a step on both is no step on one of 64."""
    both = yopo(tmp_path, train={"batch_size": 32, "shards_per_step": 2})
    summary = train(both).summary
    assert summary["steps"] == 2 * 3 and summary["examples"] == 2 * 150


def test_a_batch_is_one_step_of_m_gradients(tmp_path: Path) -> None:
    result = train(yopo(tmp_path))
    summary = result.summary
    assert summary["steps"] == 2 * BATCHES and summary["examples"] == 300 and summary["gradients_per_example"] == M
    assert summary["staleness_max"] == 0 and "yopo-3-2" in json.dumps(summary)


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ({"model": {"name": f"{__name__}:normed"}, "yopo": {"first_layer": "0"}}, "holds a BatchNorm2d"),
        ({"yopo": {"first_layer": "conv1"}}, "yopo.first_layer = 'conv1': the network has no such module"),
    ],
)
def test_a_first_layer_that_cannot_be_used_is_refused_before_there_is_a_folder(
    tmp_path: Path, groups: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        train(yopo(tmp_path / "runs", **groups))
    assert not (tmp_path / "runs").exists()
