"""FGSM from zero, the previous batch and noise, and N-FGSM, against float64 transcriptions of their authors' loops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparring.attacks import FGSM, FGSMRS, NFGSM, Attack, frozen, perturb
from sparring.queue.codec import decode_shard, encode_shard
from sparring.queue.messages import Controls, Shard
from sparring.randomness import generator
from sparring.trainer.experiment import Experiment, build_experiment
from sparring.trainer.starts import PreviousBatch
from sparring.workers.generator import produce
from sparring.workers.task import Task
from tests.support.batches import images, linear_model, margin, seeded
from tests.support.runs import small

EPSILON = 0.2


def experiment_of(root: Path, **attack: Any) -> Experiment:
    """150 digits: batches of 64, 64 and 22, two epochs."""
    train = {"epochs": 2, "max_steps": None, "batch_size": 64}
    return build_experiment(small(root, data={"limit": 150}, train=train, attack={"epsilon": EPSILON, **attack}))


def signed_gradient(experiment: Experiment, point: Tensor, y: Tensor) -> Tensor:
    with frozen(experiment.model.double()):
        point = point.detach().requires_grad_(True)
        loss = torch.nn.functional.cross_entropy(experiment.model(point), y)
        (gradient,) = torch.autograd.grad(loss, point)
    experiment.model.float()
    return gradient.sign()


def clamp(delta: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    return torch.maximum(torch.minimum(delta, torch.as_tensor(high)), torch.as_tensor(low))


def shards_and_images(experiment: Experiment) -> list[tuple[Shard, Tensor, Tensor]]:
    """Every ticket attacked in order by the weights as they are, with its images (float64) and labels."""
    previous, context = PreviousBatch(experiment.plan, experiment.training.shape), experiment.context()
    carried, made = experiment.config.attack.start == "previous", []
    for keys in experiment.plan.steps():
        for key in keys:
            indices = experiment.plan.indices(key.epoch, key.number)
            start = previous.given(key, indices, EPSILON) if carried else None
            shard = produce(Task(key, indices, start=start), context, Controls(EPSILON), 0)
            previous.remember(shard, indices)
            x, y = experiment.training.batch(torch.tensor(indices), key.epoch)
            made.append((shard, x.double(), y))
    return made


@pytest.mark.parametrize(
    ("name", "start", "clamps"),
    [
        ("fgsm", "auto", None),  # from zero the ball cuts 1.25·ε to the ε that is taken
        ("fgsm", "previous", None),
        ("fgsm", "previous", False),  # train_fgsm.py --delta-init previous of Wong et al.'s CIFAR code
        ("fgsm-rs", "previous", True),
        ("fgsm-rs", "auto", True),  # their CIFAR code
        ("fgsm-rs", "auto", None),  # their MNIST code, and Algorithm 3 of the paper
    ],
)
def test_the_order_is_start_image_step_ball_image_and_the_first_clamp_is_by_choice(
    tmp_path: Path, name: str, start: str, clamps: bool | None
) -> None:
    experiment = experiment_of(tmp_path, name=name, start=start, clamp_start=clamps)
    clamped, alpha = clamps if clamps is not None else name == "fgsm", 1.25
    kept = torch.zeros(64, *experiment.training.shape, dtype=torch.float64)
    lengths = []
    for shard, x, y in shards_and_images(experiment):
        if name == "fgsm-rs" and start == "auto":
            random = generator(0, "attack", shard.key.epoch, shard.key.number)
            delta = EPSILON * (torch.rand(x.shape, generator=random) * 2 - 1).double()
        else:
            delta = kept[: len(x)] if start == "previous" else torch.zeros_like(x)
        delta = clamp(delta, 0 - x, 1 - x) if clamped else delta
        stepped = clamp(delta + alpha * EPSILON * signed_gradient(experiment, x + delta, y), -EPSILON, EPSILON)
        kept[: len(x)] = clamp(stepped, 0 - x, 1 - x)
        assert ((shard.delta - kept[: len(x)]).abs() > 1e-6).double().mean() < 0.002
        lengths.append(len(x))
        kept[: len(x)] = shard.delta.double()  # a sign that rounding turned must not be carried on
    assert lengths == [64, 64, 22, 64, 64, 22]


def test_after_a_shorter_batch_the_other_rows_go_on_from_the_batch_before(tmp_path: Path) -> None:
    experiment = experiment_of(tmp_path, name="fgsm", start="previous")
    previous = PreviousBatch(experiment.plan, experiment.training.shape)
    for number, size in ((0, 64), (1, 64), (2, 22)):
        key = next(key for keys in experiment.plan.steps() for key in keys if key.number == number)
        delta = torch.full((size, *experiment.training.shape), 0.1 * (number + 1))
        previous.remember(Shard(key, 0, 0, 0, experiment.threat.record, delta, torch.zeros(size)), range(size))
    begun = previous.given(key._replace(epoch=1, number=0), range(64), EPSILON).delta.flatten(1)[:, 0]
    assert torch.allclose(begun, torch.tensor([0.3] * 22 + [0.2] * 42))


def test_a_clamped_start_moves_pixels_that_the_authors_mnist_code_leaves_outside() -> None:
    model, (x, y) = linear_model(), images(low=0.0, high=0.0)
    up = margin(model, y).sign().view_as(x) > 0
    random = 0.2 * (torch.rand(x.shape, generator=seeded()) * 2 - 1)
    free, held = (perturb(model, x, y, FGSMRS(0.2, clamp_start=each), seeded()) for each in (False, True))
    assert torch.allclose(free[up], (random[up] + 0.25).clamp(0, 0.2), atol=1e-6)
    assert torch.allclose(held[up], (random[up].clamp_min(0) + 0.25).clamp(0, 0.2), atol=1e-6)
    assert held[up].min() > 0.199 and free[up].min() < 0.1


@pytest.mark.parametrize("clamps", [None, False])
@pytest.mark.parametrize("k", [2.0, 0.5])
def test_n_fgsm_steps_from_noise_and_is_not_cut_back(tmp_path: Path, k: float, clamps: bool | None) -> None:
    experiment = experiment_of(tmp_path, name="n-fgsm", noise=k, clamp_start=clamps)
    largest = 0.0
    for shard, x, y in shards_and_images(experiment):
        random = generator(0, "attack", shard.key.epoch, shard.key.number)
        eta = k * EPSILON * (torch.rand(x.shape, generator=random) * 2 - 1).double()
        eta = eta if clamps is False else clamp(eta, 0 - x, 1 - x)
        delta = clamp(eta + EPSILON * signed_gradient(experiment, x + eta, y), 0 - x, 1 - x)
        assert ((shard.delta - delta).abs() > 1e-6).double().mean() < 0.002
        assert shard.radius == pytest.approx((1 + k) * EPSILON), "the codec's ball is the attack's"
        got = decode_shard(encode_shard(shard, "int8"))
        assert (got.delta - shard.delta).abs().max() <= shard.radius / 254 + 1e-6
        largest = max(largest, float(shard.delta.abs().max()))
    assert EPSILON * 1.2 < largest <= (1 + k) * EPSILON + 1e-6


def test_on_a_linear_model_fgsm_reaches_the_known_optimum() -> None:
    model, (x, y) = linear_model(), images(low=0.4, high=0.6)
    delta = perturb(model, x, y, FGSM(0.1), seeded())
    assert torch.allclose(delta, 0.1 * margin(model, y).sign().view_as(x), atol=1e-6)


@pytest.mark.parametrize(
    ("attack", "alpha"),
    [
        (FGSM(0.3), 0.3),
        (FGSM(0.3, start="given"), 1.25 * 0.3),
        (FGSM(0.3, step_size=0.1), 0.1),
        (FGSMRS(0.3), 1.25 * 0.3),
        (FGSMRS(0.3, start="zero"), 0.3),
        (NFGSM(0.3, noise=0.5), 0.3),
    ],
)
def test_one_step_is_as_long_as_its_paper_says(attack: Attack, alpha: float) -> None:
    assert attack.steps == 1 and attack.alpha == pytest.approx(alpha)
    assert attack.at(0.15).alpha == pytest.approx(alpha / 2)


def test_they_take_one_step_and_n_fgsm_its_own_start() -> None:
    for wrong in (lambda: FGSM(0.3, steps=2), lambda: NFGSM(0.3, start="zero")):  # type: ignore[call-arg]
        with pytest.raises(TypeError):
            wrong()


@pytest.mark.parametrize("noise", [0.0, -1.0, float("nan")])
def test_noise_that_is_none_is_refused(noise: float) -> None:
    with pytest.raises(ValueError, match=r"^noise = "):
        NFGSM(0.3, noise=noise)
