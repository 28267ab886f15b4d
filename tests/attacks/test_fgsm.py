"""FGSM from zero, the previous batch and noise, and N-FGSM, against float64 transcriptions of their authors' loops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sparring.attacks.gradient import attack_within
from torch import Tensor

from sparring.attacks import PGD, attack_from, frozen, iterate
from sparring.attacks.norms import random_start
from sparring.config import AttackSettings
from sparring.data import batch
from sparring.queue.codec import decode_shard, encode_shard
from sparring.queue.messages import Controls, Shard
from sparring.randomness import generator
from sparring.trainer.experiment import Experiment, build_experiment
from sparring.trainer.starts import PreviousBatch
from sparring.workers.generator import produce
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
    settings, previous = experiment.config, PreviousBatch(experiment.plan, experiment.training.shape)
    made = []
    for keys in experiment.plan.steps():
        for key in keys:
            indices = experiment.plan.indices(key.epoch, key.number)
            start = previous.given(key, indices, EPSILON) if settings.attack.start == "previous" else None
            shard = produce(settings, experiment.model, experiment.training, key, indices, Controls(EPSILON), 0, start)
            previous.remember(shard, indices)
            x, y = batch(experiment.training, torch.tensor(indices), augment="none", seed=0, epoch=key.epoch)
            made.append((shard, x.double(), y))
    return made


@pytest.mark.parametrize(
    ("name", "start", "alpha"),
    [
        ("fgsm", "auto", 1.25),  # from zero the ball cuts 1.25·ε to the ε that is taken
        ("fgsm", "previous", 1.25),
        ("fgsm-rs", "previous", 1.25),
        ("fgsm-rs", "auto", 1.25),
    ],
)
def test_the_order_is_start_image_step_ball_image(tmp_path: Path, name: str, start: str, alpha: float) -> None:
    experiment = experiment_of(tmp_path, name=name, start=start)
    kept = torch.zeros(64, *experiment.training.shape, dtype=torch.float64)
    lengths = []
    for shard, x, y in shards_and_images(experiment):
        if name == "fgsm-rs" and start == "auto":
            random = generator(0, "attack", shard.key.epoch, shard.key.number)
            delta = EPSILON * (torch.rand(x.shape, generator=random) * 2 - 1).double()
        else:
            delta = kept[: len(x)] if start == "previous" else torch.zeros_like(x)
        delta = clamp(delta, 0 - x, 1 - x)
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
        previous.remember(Shard(key, 0, 0, 0, EPSILON, delta, torch.zeros(size)), range(size))
    begun = previous.given(key._replace(epoch=1, number=0), range(64), EPSILON).delta.flatten(1)[:, 0]
    assert torch.allclose(begun, torch.tensor([0.3] * 22 + [0.2] * 42))


@pytest.mark.parametrize("k", [2.0, 0.5])
def test_n_fgsm_steps_from_noise_and_is_not_cut_back(tmp_path: Path, k: float) -> None:
    experiment = experiment_of(tmp_path, name="n-fgsm", noise=k)
    largest = 0.0
    for shard, x, y in shards_and_images(experiment):
        random = generator(0, "attack", shard.key.epoch, shard.key.number)
        eta = clamp(k * EPSILON * (torch.rand(x.shape, generator=random) * 2 - 1).double(), 0 - x, 1 - x)
        delta = clamp(eta + EPSILON * signed_gradient(experiment, x + eta, y), 0 - x, 1 - x)
        assert ((shard.delta - delta).abs() > 1e-6).double().mean() < 0.002
        assert shard.epsilon == pytest.approx((1 + k) * EPSILON), "the codec's ball is the attack's"
        got = decode_shard(encode_shard(shard, "int8", "linf"))
        assert (got.delta - shard.delta).abs().max() <= shard.epsilon / 254 + 1e-6
        largest = max(largest, float(shard.delta.abs().max()))
    assert EPSILON * 1.2 < largest <= (1 + k) * EPSILON + 1e-6


def test_a_shards_radius_gives_its_attack_back() -> None:
    settings = AttackSettings(name="n-fgsm", epsilon=0.1, noise=2.0)
    attack = attack_from(settings, 0.05, "trades")
    assert (attack.start, attack.loss) == ("uniform", "kl") and attack.step_size == pytest.approx(0.05)
    again = attack_within(settings, attack.radius, "trades")
    assert again.epsilon == pytest.approx(0.05) and again.noise == 2.0
    plain = AttackSettings(name="pgd", epsilon=0.1)
    assert attack_within(plain, 0.05) == attack_from(plain, 0.05), "of other attacks the radius is epsilon"


def test_where_a_start_is_known_it_is_taken_and_elsewhere_the_attacks_own() -> None:
    x = torch.full((4, 1, 2, 2), 0.5)
    x[0] = 0.0
    attack = PGD(0.1, steps=1, step_size=1e-12)
    given = torch.full_like(x, -0.3)
    known = torch.tensor([True, True, False, False])
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    steps = iterate(model, x, torch.zeros(4, dtype=torch.int64), attack, generator(0, "t"), start=given, known=known)
    next(steps)
    with pytest.raises(StopIteration) as end:
        next(steps)
    delta = end.value.value
    own = random_start(x, "linf", 0.1, generator(0, "t"))
    assert torch.allclose(delta[2:], own[2:]) and torch.allclose(delta[1], torch.tensor(-0.1))
    assert torch.allclose(delta[0], torch.tensor(0.0)), "projected to the image"
