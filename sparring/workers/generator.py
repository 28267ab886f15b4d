"""A ticket and weights become a shard, one attack step at a time. Pure but for the clock that it reports."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sparring.allocators.bullettrain import Allocation, allocate, classify, classify_by_attack, signed_variance
from sparring.attacks import Attack, frozen, iterate, perturb, perturbed
from sparring.attacks.gradient import attack_from, targets_of
from sparring.attacks.starts import Given
from sparring.config import Config
from sparring.data import TrainingSet
from sparring.queue.messages import Controls, Key, Shard
from sparring.randomness import generator
from sparring.workers.views import Augmentation

ORACLE_STEPS = 10


@dataclass(frozen=True)
class Assignment:
    """A ticket made ready under the weights of `version`: all that its attack needs.

    x: float32 [N, C, H, W] and targets (int64 [N] or float32 [N, K]) on the model's device, labels: int64 [N]; `start`
    and `known`: where the attack begins, see `iterate`; `allocation` is None where all examples get the attack's own
    steps. `seconds` is what making it ready took, `classifying_seconds` the part of it that an attack without allocator
    would not need, and `classifying_gradients` are the oracle's.
    """

    key: Key
    fence: int
    worker: str
    version: int
    x: Tensor
    labels: Tensor
    targets: Tensor
    attack: Attack
    random: torch.Generator
    start: Tensor | None
    known: Tensor | None
    allocation: Allocation | None
    seconds: float
    classifying_seconds: float
    classifying_gradients: int

    @property
    def owner(self) -> tuple[int, Key]:
        """What tells tickets apart, across resumes too."""
        return self.fence, self.key

    def step_counts(self) -> list[int]:
        """Attack steps of each example, in one attempt."""
        if self.allocation is None:
            return [self.attack.steps] * len(self.labels)
        counts: list[int] = self.allocation.step_counts.tolist()
        return counts

    @property
    def full_steps(self) -> int:
        """Gradient evaluations of all steps on all examples."""
        return self.attack.restarts * self.attack.steps * len(self.labels)

    def shard(self, delta: Tensor, *, version: int, seconds: float, cost_seconds: float, gradient_s: float) -> Shard:
        """The product; `gradient_s` is what one gradient evaluation takes in a full batch, 0 where that is unknown."""
        gradients = self.attack.restarts * sum(self.step_counts()) + self.classifying_gradients
        ready = self.seconds - self.classifying_seconds
        return Shard(
            key=self.key,
            fence=self.fence,
            version=version,
            start_version=self.version,
            epsilon=self.attack.radius,
            delta=delta,
            labels=self.labels,
            worker=self.worker,
            attack_seconds=seconds,
            cost_seconds=cost_seconds,
            full_seconds=ready + self.full_steps * gradient_s if gradient_s else 0.0,
            gradients=gradients,
            classes=(0, 0, 0) if self.allocation is None else self.allocation.classes,
        )


def assign(
    config: Config,
    model: nn.Module,
    dataset: TrainingSet,
    key: Key,
    indices: tuple[int, ...],
    controls: Controls,
    version: int,
    *,
    fence: int = 0,
    worker: str = "",
    start: Given | None = None,
) -> Assignment:
    """Rebuild the examples of a ticket and allocate their attack steps; `version` is that of the model's weights.

    Random numbers depend on the ticket alone. `start`: where the attack begins, by default where its settings say.
    """
    device = next(model.parameters()).device
    began = now(device)
    x, labels = dataset.batch(torch.tensor(indices), key.epoch)
    attack = attack_from(config.attack, controls.epsilon, config.objective.name, controls.pgd_steps)
    random = generator(config.train.seed, "attack", key.epoch, key.number)
    x, on_device = x.to(device), labels.to(device)
    rebuilt = time.perf_counter()
    clean = _clean_logits(config, model, x, attack)
    classified_from = now(device) if attack.loss == "kl" else rebuilt
    allocation = _allocation(config, model, x, on_device, clean, controls, attack, random)
    ended = now(device)
    return Assignment(
        key=key,
        fence=fence,
        worker=worker,
        version=version,
        x=x,
        labels=labels,
        targets=targets_of(attack, on_device, clean),
        attack=attack,
        random=random,
        start=None if start is None else start.delta.to(device),
        known=None if start is None else start.known.to(device),
        allocation=allocation,
        seconds=ended - began,
        classifying_seconds=0.0 if allocation is None else ended - classified_from,
        classifying_gradients=ORACLE_STEPS * len(labels) if config.allocator.name == "oracle" else 0,
    )


class Production:
    """A shard in the making, of one ticket: its batch shrinks and grows with the examples that have steps left.

    `advance` makes one attack step with the model as it is (it should be `frozen`), and notes the version of its
    weights; between two calls the caller may load newer weights, or do something else.
    """

    def __init__(
        self,
        config: Config,
        model: nn.Module,
        dataset: TrainingSet,
        key: Key,
        indices: tuple[int, ...],
        controls: Controls,
        version: int,
        *,
        fence: int = 0,
        worker: str = "",
        start: Given | None = None,
    ) -> None:
        ready = assign(config, model, dataset, key, indices, controls, version, fence=fence, worker=worker, start=start)
        self.assignment = ready
        self.versions: list[int] = [version]
        self.delta: Tensor | None = None
        self.seconds = ready.seconds
        self.step_seconds: list[float] = []
        self._counts = ready.step_counts()
        self._longest = max(self._counts)
        self.steps = ready.attack.restarts * self._longest
        counts, sizes = (None, None) if ready.allocation is None else ready.allocation[:2]
        self._iteration = iterate(
            model,
            ready.x,
            ready.targets,
            ready.attack,
            ready.random,
            start=ready.start,
            known=ready.known,
            step_counts=counts,
            step_sizes=sizes,
        )
        self._next()

    @property
    def done(self) -> bool:
        return self.delta is not None

    @property
    def owner(self) -> tuple[int, Key]:
        return self.assignment.owner

    def advance(self, version: int) -> None:
        """Make the next attack step; `version` is that of the weights the model holds now."""
        began = time.perf_counter()
        self.versions.append(version)
        self._next()
        if self.delta is not None or self.assignment.allocation is not None:
            _finish(self.assignment.x.device)  # steps of different sizes are told apart; equal ones need not wait
        self.step_seconds.append(time.perf_counter() - began)
        self.seconds += self.step_seconds[-1]

    def _next(self) -> None:
        """Up to the next attack step, or to the perturbation."""
        try:
            next(self._iteration)
        except StopIteration as end:
            self.delta = end.value

    def shard(self) -> Shard:
        """The product. Its version is the older one of the last two attack steps (docs/architecture.md)."""
        assert self.delta is not None, "the attack has steps left"
        return self.assignment.shard(
            self.delta,
            version=min(self.versions[1:][-2:] or self.versions),
            seconds=self.seconds,
            cost_seconds=self.seconds,
            gradient_s=self._gradient_s(),
        )

    def _gradient_s(self) -> float:
        """Seconds of a gradient evaluation in the largest steps; 0 (unknown) where they were of less than half the
        batch, whose examples are dearer than a full one's."""
        sizes = [
            sum(count >= self._longest - step % self._longest for count in self._counts)
            for step in range(len(self.step_seconds))
        ]
        largest = max(sizes, default=0)
        taken = [seconds for size, seconds in zip(sizes, self.step_seconds, strict=True) if size == largest]
        return sum(taken) / (largest * len(taken)) if taken and 2 * largest >= len(self._counts) else 0.0


def begin(
    config: Config,
    model: nn.Module,
    dataset: TrainingSet,
    key: Key,
    indices: tuple[int, ...],
    controls: Controls,
    version: int,
    *,
    fence: int = 0,
    worker: str = "",
    start: Given | None = None,
) -> Production | Augmentation:
    """The shard of one ticket in the making, of whatever kind the recipe asks for."""
    if config.attack.name == "augmix":
        return Augmentation(config, model, dataset, key, indices, controls, version, fence=fence, worker=worker)
    return Production(config, model, dataset, key, indices, controls, version, fence=fence, worker=worker, start=start)


def produce(
    config: Config,
    model: nn.Module,
    dataset: TrainingSet,
    key: Key,
    indices: tuple[int, ...],
    controls: Controls,
    version: int,
    start: Given | None = None,
) -> Shard:
    """The whole attack under weights that do not change."""
    with frozen(model):
        production = begin(config, model, dataset, key, indices, controls, version, start=start)
        while not production.done:
            production.advance(version)
    return production.shard()


def now(device: torch.device) -> float:
    """Seconds by a clock, once `device` has done what it was told."""
    _finish(device)
    return time.perf_counter()


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


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
