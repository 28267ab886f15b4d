"""What a worker makes of a ticket for AugMix: views of the images that the trainer rebuilds, and whose."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from sparring.allocators.bullettrain import BOUNDARY, OUTLIER, ROBUST, classify, signed_variance
from sparring.attacks import PGD, frozen
from sparring.config import Config, from_tree
from sparring.data import augmix, batch, load, training_set
from sparring.errors import SparringError
from sparring.models import build
from sparring.queue.messages import Controls, Key, Shard
from sparring.workers.generator import begin, produce
from sparring.workers.task import AttackContext, Task
from sparring.workers.views import make_views
from tests.support.batches import seeded
from tests.support.digits import context_of

INDICES = tuple(range(100, 140))
TASK = Task(Key(2, 5, 0), INDICES, worker="w")
METHOD = {"attack": {"name": "augmix"}, "objective": {"name": "augmix"}, "data": {"augment": "crop_flip"}}
BULLETTRAIN = {"name": "bullettrain", "robust_steps": 0}


def config_with(**groups: Any) -> Config:
    return from_tree({**METHOD, **groups})


def model_of(config: Config) -> nn.Module:
    return build(config.model, (1, 8, 8), 10, seed=0)


def context_with(config: Config) -> AttackContext:
    return context_of(config, model_of(config), training_set(config, load(config.data, "train")))


def shard_of(config: Config, robust_share: float = 0.0) -> Shard:
    return produce(TASK, context_with(config), Controls(0.0, robust_share), 7)


def expected_views(config: Config) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The seeded images, their labels and two views of each."""
    indices = torch.tensor(INDICES)
    x, labels = batch(load(config.data, "train"), indices, augment="crop_flip", seed=config.train.seed, epoch=2)
    images = (x * 255).round().to(torch.uint8)
    views = augmix.views(images, config.augmix, seed=config.train.seed, epoch=2, indices=indices)
    return images, labels, views


def test_without_an_allocator_every_example_gets_two_views_of_its_seeded_image() -> None:
    config = config_with()
    shard = shard_of(config)
    _, labels, views = expected_views(config)
    assert shard.views is not None and torch.equal(shard.views, views)
    assert torch.equal(shard.labels, labels)
    assert shard.attack == ("augmix", "linf", 0.0, 0.0, 1)
    assert (shard.gradients, shard.classes, shard.delta.numel()) == (0, {}, 0)


@pytest.mark.parametrize("robust_share", [0.0, 0.05])
def test_under_bullettrain_boundary_examples_alone_are_augmented(robust_share: float) -> None:
    config = config_with(allocator=BULLETTRAIN)
    shard = shard_of(config, robust_share)
    images, labels, views = expected_views(config)
    model = model_of(config)
    with frozen(model), torch.no_grad():
        classes = classify(signed_variance(model(images / 255), labels), robust_share, seeded())
    boundary = classes == BOUNDARY
    assert shard.views is not None and 0 < int(boundary.sum()) < len(INDICES)
    assert torch.equal(shard.views[:, boundary], views[:, boundary])
    assert torch.equal(shard.views[:, ~boundary], images[~boundary].expand(2, -1, -1, -1, -1))
    numbers = {"outlier": OUTLIER, "boundary": BOUNDARY, "robust": ROBUST}
    assert shard.classes == {name: int((classes == each).sum()) for name, each in numbers.items()}


@pytest.mark.parametrize("name", ["robust_steps", "outlier_steps"])
def test_a_class_whose_step_is_on_is_augmented_too(name: str) -> None:
    config = config_with(allocator={**BULLETTRAIN, name: 1})
    images, labels, views = expected_views(config)
    shard = shard_of(config, robust_share=0.4)
    model = model_of(config)
    with frozen(model), torch.no_grad():
        classes = classify(signed_variance(model(images / 255), labels), 0.4, seeded())
    also = classes == (ROBUST if name == "robust_steps" else OUTLIER)
    assert shard.views is not None and bool(also.any())
    assert torch.equal(shard.views[:, also], views[:, also])


def test_views_are_made_without_steps_and_their_version_is_that_of_the_start() -> None:
    context = context_with(config_with(allocator=BULLETTRAIN))
    with frozen(context.model):
        work = begin(TASK, context, Controls(0.0), 7)
    assert work.done and work.steps == 0
    shard = work.shard()
    assert (shard.version, shard.start_version, shard.worker) == (7, 7, "w")


def test_an_attack_with_a_ball_makes_no_views() -> None:
    context = context_with(config_with())
    x, labels = context.dataset.batch(torch.tensor(INDICES), 2)
    with pytest.raises(SparringError, match="'pgd' makes no views"):
        make_views(TASK, replace(context, attack=PGD(0.1)), x, labels, 0.0)
