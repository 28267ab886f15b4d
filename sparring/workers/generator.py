"""A ticket and weights become a shard, one attack step at a time. Pure but for the clock that it reports."""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from torch import Tensor, nn

from sparring.attacks import Attack, frozen, iterate, perturb, perturbed
from sparring.attacks.gradient import attack_from, targets_of
from sparring.attacks.starts import Given
from sparring.config import Config
from sparring.data import Dataset, training_batch
from sparring.queue.messages import Controls, Key, Shard
from sparring.randomness import generator
from sparring.workers.allocator import Allocation, allocate, classify, classify_by_attack, signed_variance
from sparring.workers.views import Views, make_views

ORACLE_STEPS = 10


class Production:
    """A shard in the making.

    `advance` makes one attack step with the model as it is (it should be `frozen`), and notes the version of its
    weights; between two calls the caller may load newer weights, or do something else. Random numbers depend on the
    ticket alone. `start`: where the attack begins, by default where its settings say. AugMix has no attack steps: its
    views are made at once, and no gradient is evaluated.
    """

    def __init__(
        self,
        config: Config,
        model: nn.Module,
        dataset: Dataset,
        key: Key,
        indices: tuple[int, ...],
        controls: Controls,
        version: int,
        *,
        fence: int = 0,
        worker: str = "",
        start: Given | None = None,
    ) -> None:
        began = time.perf_counter()
        device = next(model.parameters()).device
        x, self.labels = training_batch(config, dataset, torch.tensor(indices), key.epoch)
        self.key, self.fence, self.worker = key, fence, worker
        self.versions = [version]
        self.delta: Tensor | None = None
        self.views: Views | None = None
        self.steps = self.gradients = 0
        if config.attack.name == "augmix":
            self.views = make_views(config, model, x, self.labels, indices, key.epoch, controls.robust_share)
            self.epsilon, self.classes = 0.0, self.views.classes
        else:
            self._begin(config, model, x.to(device), self.labels.to(device), controls, start)
        self.seconds = time.perf_counter() - began

    def _begin(
        self, config: Config, model: nn.Module, x: Tensor, labels: Tensor, controls: Controls, start: Given | None
    ) -> None:
        """Classify where an allocator asks for it, and go up to the first attack step."""
        attack = attack_from(config.attack, controls.epsilon, config.objective.name, controls.pgd_steps)
        self.epsilon = attack.radius
        random = generator(config.train.seed, "attack", self.key.epoch, self.key.number)
        clean = _clean_logits(config, model, x, attack)
        allocation = _allocation(config, model, x, labels, clean, controls, attack, random)
        counts, sizes, self.classes = allocation or (None, None, (0, 0, 0))
        self.steps = attack.restarts * (attack.steps if counts is None else int(counts.max()))
        self.gradients = attack.restarts * (attack.steps * len(labels) if counts is None else int(counts.sum()))
        targets = targets_of(attack, labels, clean)
        delta, known = (None, None) if start is None else (start.delta.to(x.device), start.known.to(x.device))
        self._iteration = iterate(
            model, x, targets, attack, random, start=delta, known=known, step_counts=counts, step_sizes=sizes
        )
        self._next()

    @property
    def done(self) -> bool:
        return self.delta is not None or self.views is not None

    def advance(self, version: int) -> None:
        """Make the next attack step; `version` is that of the weights the model holds now."""
        began = time.perf_counter()
        self.versions.append(version)
        self._next()
        self.seconds += time.perf_counter() - began

    def _next(self) -> None:
        """Up to the next attack step, or to the perturbation."""
        try:
            next(self._iteration)
        except StopIteration as end:
            self.delta = end.value

    def shard(self) -> Shard:
        """The product. Its version is the older one of the last two attack steps (design, section 1)."""
        assert self.done, "the attack has steps left"
        return Shard(
            key=self.key,
            fence=self.fence,
            version=min(self.versions[1:][-2:] or self.versions),
            start_version=self.versions[0],
            epsilon=self.epsilon,
            delta=torch.empty(0) if self.delta is None else self.delta,
            labels=self.labels,
            worker=self.worker,
            attack_seconds=self.seconds,
            gradients=self.gradients,
            classes=self.classes,
            views=None if self.views is None else self.views.images,
        )


def produce(
    config: Config,
    model: nn.Module,
    dataset: Dataset,
    key: Key,
    indices: tuple[int, ...],
    controls: Controls,
    version: int,
    start: Given | None = None,
) -> Shard:
    """The whole attack under weights that do not change."""
    with frozen(model):
        production = Production(config, model, dataset, key, indices, controls, version, start=start)
        while not production.done:
            production.advance(version)
    return production.shard()


def _clean_logits(config: Config, model: nn.Module, x: Tensor, attack: Attack) -> Tensor | None:
    """[N, K] of the clean images, where the allocator or the attack's loss asks for them; passed once for both."""
    if config.allocator.name == "none" and attack.loss == "ce":
        return None
    with torch.no_grad():
        logits: Tensor = model(x)
    return logits


def _allocation(
    config: Config,
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    clean: Tensor | None,
    controls: Controls,
    attack: Attack,
    random: torch.Generator,
) -> Allocation | None:
    """Steps by example, or None where all get the same."""
    if clean is None or config.allocator.name == "none":
        return None
    if config.allocator.name == "bullettrain":
        classes = classify(signed_variance(clean, labels), controls.robust_share)
    else:
        judge = replace(
            attack, steps=ORACLE_STEPS, step_size=2.5 * attack.epsilon / ORACLE_STEPS, loss="ce", restarts=1, noise=0.0
        )
        delta = perturb(model, x, labels, judge, random)
        with torch.no_grad():
            attacked = model(perturbed(x, delta))
        classes = classify_by_attack(clean.argmax(1) == labels, attacked.argmax(1) == labels)
    settings = config.allocator
    if controls.pgd_steps:
        settings = settings.model_copy(update={"boundary_steps": None})
    return allocate(classes, settings, attack)
