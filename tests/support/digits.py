"""The digits, a network that knows them a little, and what a recipe attacks them with."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from sparring.config import Config, from_tree
from sparring.data import TrainingSet, load, training_set
from sparring.models import build
from sparring.queue.messages import Key
from sparring.trainer.experiment import methods_of
from sparring.workers.task import AttackContext, Task


def training_digits() -> TrainingSet:
    return training_set(Config(), load(Config().data, "train"))


def half_trained(digits: TrainingSet) -> nn.Module:
    """Trained on `training_digits` for a few steps: some examples are classified correctly, some not. Frozen."""
    made = build(Config().model, digits.shape, digits.classes, 0)
    made.load_state_dict(_half_trained_weights())
    return made.eval().requires_grad_(False)


@cache
def _half_trained_weights() -> dict[str, Tensor]:
    digits = training_digits()
    made = build(Config().model, digits.shape, digits.classes, 0)
    x, y = digits.images(torch.arange(len(digits))).float() / 255, digits.labels
    optimizer = torch.optim.Adam(made.parameters(), lr=0.003)
    for _ in range(8):
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(made(x), y))
        optimizer.step()
    return made.state_dict()


def recipe(**groups: Any) -> Config:
    """Five attack steps; `groups` change settings by group."""
    tree: dict[str, Any] = {"attack": {"steps": 5, "warmup_epochs": 0}}
    for group, values in groups.items():
        tree[group] = {**tree.get(group, {}), **values} if isinstance(values, dict) else values
    return from_tree(tree)


def context_of(config: Config, model: nn.Module, dataset: TrainingSet) -> AttackContext:
    methods = methods_of(config)
    return AttackContext(model, dataset, methods.attack, methods.allocator, config.train.seed)


def task(number: int, indices: tuple[int, ...], **more: Any) -> Task:
    return Task(Key(0, number, 0), indices, **more)


class InDouble(nn.Module):
    """The network with passes in float64, so that an example's logits do not depend on who is in the batch with it.

    In float32 they do, by rounding, and a divergence's first gradient, which is next to 0, makes much of it.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner = copy.deepcopy(model).double()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x.double())
        return logits.float()
