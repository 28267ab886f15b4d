"""A ticket and weights become a shard, one attack step at a time. Pure but for the clock that it reports."""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn

from sparring.attacks import frozen, iterate
from sparring.attacks.gradient import attack_from
from sparring.config import Config
from sparring.data import Dataset, batch
from sparring.queue.messages import Key, Shard
from sparring.randomness import generator


class Production:
    """A shard in the making.

    `advance` makes one attack step with the model as it is (it should be `frozen`), and notes the version of its
    weights; between two calls the caller may load newer weights, or do something else. Random numbers depend on the
    ticket alone.
    """

    def __init__(
        self,
        config: Config,
        model: nn.Module,
        dataset: Dataset,
        key: Key,
        indices: tuple[int, ...],
        epsilon: float,
        *,
        fence: int = 0,
        worker: str = "",
    ) -> None:
        began = time.perf_counter()
        device = next(model.parameters()).device
        seed = config.train.seed
        x, labels = batch(dataset, torch.tensor(indices), augment=config.data.augment, seed=seed, epoch=key.epoch)
        self.key, self.fence, self.worker = key, fence, worker
        self.epsilon = epsilon
        self.labels = labels
        self.versions: list[int] = []
        self.delta: Tensor | None = None
        attack = attack_from(config.attack, epsilon)
        self.gradients = attack.steps * attack.restarts * len(labels)
        random = generator(seed, "attack", key.epoch, key.number)
        self._steps = iterate(model, x.to(device), labels.to(device), attack, random)
        next(self._steps)
        self.seconds = time.perf_counter() - began

    @property
    def done(self) -> bool:
        return self.delta is not None

    def advance(self, version: int) -> None:
        """Make the next attack step; `version` is that of the weights the model holds now."""
        began = time.perf_counter()
        self.versions.append(version)
        try:
            next(self._steps)
        except StopIteration as end:
            self.delta = end.value
        self.seconds += time.perf_counter() - began

    def shard(self) -> Shard:
        """The product. Its version is the older one of the last two attack steps (design, section 1)."""
        assert self.delta is not None, "the attack has steps left"
        return Shard(
            key=self.key,
            fence=self.fence,
            version=min(self.versions[-2:]),
            start_version=self.versions[0],
            epsilon=self.epsilon,
            delta=self.delta,
            labels=self.labels,
            worker=self.worker,
            attack_seconds=self.seconds,
            gradients=self.gradients,
        )


def produce(
    config: Config,
    model: nn.Module,
    dataset: Dataset,
    key: Key,
    indices: tuple[int, ...],
    epsilon: float,
    version: int,
) -> Shard:
    """The whole attack under weights that do not change."""
    production = Production(config, model, dataset, key, indices, epsilon)
    with frozen(model):
        while not production.done:
            production.advance(version)
    return production.shard()
