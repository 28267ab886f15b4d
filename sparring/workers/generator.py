"""Make a shard of a task, one attack step at a time. Pure except for the measured times."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn

from sparring.allocators import Allocation, Candidates
from sparring.attacks import Attack, GradientCheck, frozen, iterate
from sparring.errors import SparringError
from sparring.queue.messages import Controls, Shard
from sparring.randomness import generator
from sparring.workers.task import AttackContext, Task
from sparring.workers.views import Augmentation


@dataclass(frozen=True)
class PreparedTask:
    """A task with all that its attack needs, prepared with the weights of `version`.

    x: float32 [N, C, H, W] and targets (int64 [N] or float32 [N, K]), on the model's device; labels: int64 [N]; attack:
    with the current ε; allocation: None if all examples get the attack's own steps. `seconds` is the time of the
    preparation, `classifying_seconds` the part of it that is due to the allocator.
    """

    task: Task
    version: int
    x: Tensor
    labels: Tensor
    targets: Tensor
    attack: Attack
    random: torch.Generator
    allocation: Allocation | None
    seconds: float
    classifying_seconds: float

    def step_counts(self) -> list[int]:
        """Attack steps of each example in one restart."""
        if self.allocation is None:
            return [self.attack.steps] * len(self.labels)
        counts: list[int] = self.allocation.step_counts.tolist()
        return counts

    @property
    def full_steps(self) -> int:
        """Gradient evaluations of the full attack: all steps on all examples."""
        return self.attack.restarts * self.attack.steps * len(self.labels)

    def shard(
        self,
        delta: Tensor,
        check: GradientCheck,
        *,
        version: int,
        seconds: float,
        cost_seconds: float,
        gradient_s: float,
        attacked_by: tuple[tuple[int, int], ...] = (),
    ) -> Shard:
        """The finished shard. `gradient_s`: seconds per gradient evaluation in a full batch; 0 if unknown."""
        classifying = 0 if self.allocation is None else self.allocation.gradients
        preparation = self.seconds - self.classifying_seconds
        return Shard(
            key=self.task.key,
            fence=self.task.fence,
            version=version,
            start_version=self.version,
            attack=self.attack.record,
            delta=delta,
            labels=self.labels,
            worker=self.task.worker,
            attack_seconds=seconds,
            cost_seconds=cost_seconds,
            full_seconds=preparation + self.full_steps * gradient_s if gradient_s else 0.0,
            gradients=self.attack.restarts * sum(self.step_counts()) + classifying,
            classes={} if self.allocation is None else self.allocation.counts,
            zero_gradients=int(check.zero.sum()),
            non_finite_gradients=int(check.non_finite.sum()),
            attacked_by=attacked_by,
        )


def prepare_task(task: Task, context: AttackContext, controls: Controls, version: int) -> PreparedTask:
    """Rebuild the examples of a task and allocate their attack steps; `version` is that of the model's weights.

    Random numbers depend only on the ticket.
    """
    device = next(context.model.parameters()).device
    began = now(device)
    x, labels = context.dataset.batch(torch.tensor(task.indices), task.key.epoch)
    attack = context.attack_now(controls)
    if not isinstance(attack, Attack):
        raise SparringError(f"attack {attack.name!r} makes no perturbations: a sparring.attacks.Attack is needed.")
    random = generator(context.seed, "attack", task.key.epoch, task.key.number)
    x, on_device = x.to(device), labels.to(device)
    rebuilt = time.perf_counter()
    clean = _clean_logits(context, x, attack)
    classified_from = now(device) if attack.maximised.needs_clean else rebuilt
    allocation = _allocation(context, x, on_device, clean, controls, attack, random)
    ended = now(device)
    return PreparedTask(
        task=task,
        version=version,
        x=x,
        labels=labels,
        targets=attack.maximised.targets_of(on_device, clean, _helper_logits(context, x, attack)),
        attack=attack,
        random=random,
        allocation=allocation,
        seconds=ended - began,
        classifying_seconds=0.0 if allocation is None else ended - classified_from,
    )


class ShrinkingBatch:
    """The attack on one task: its batch holds only the examples that take part in the current step.

    `advance` makes one attack step with the model in its current mode (it should be `frozen`) and records the version
    of its weights. Between two calls the caller may load newer weights, or do other work.
    """

    def __init__(self, task: Task, context: AttackContext, controls: Controls, version: int) -> None:
        ready = prepare_task(task, context, controls, version)
        self.prepared = ready
        self.versions: list[int] = [version]
        self.delta: Tensor | None = None
        self.seconds = ready.seconds
        self.step_seconds: list[float] = []
        self._counts = ready.step_counts()
        self._longest = max(self._counts)
        self.steps = ready.attack.restarts * self._longest
        self.check = GradientCheck(len(ready.labels), ready.x.device)
        counts, sizes = (None, None) if ready.allocation is None else ready.allocation[:2]
        self._iteration = iterate(
            context.model,
            ready.x,
            ready.targets,
            ready.attack,
            ready.random,
            start=task.start,
            step_counts=counts,
            step_sizes=sizes,
            check=self.check,
        )
        self._next()

    @property
    def done(self) -> bool:
        return self.delta is not None

    @property
    def active(self) -> int:
        """Examples that take part in the next step."""
        if self.left == 0:
            return 0
        return sum(count >= self._longest - len(self.step_seconds) % self._longest for count in self._counts)

    @property
    def left(self) -> int:
        """Attack steps that are left, restarts included."""
        return self.steps - len(self.step_seconds)

    @property
    def task(self) -> Task:
        return self.prepared.task

    def advance(self, version: int) -> None:
        """Make the next attack step; `version` is that of the model's current weights."""
        began = time.perf_counter()
        self.versions.append(version)
        self._next()
        if self.delta is not None or self.prepared.allocation is not None:
            _finish(self.prepared.x.device)  # only steps of different sizes have to be timed one by one
        self.step_seconds.append(time.perf_counter() - began)
        self.seconds += self.step_seconds[-1]

    def _next(self) -> None:
        """Run the iteration up to the next attack step, or to its end."""
        try:
            next(self._iteration)
        except StopIteration as end:
            self.delta = end.value

    def shard(self) -> Shard:
        """The finished shard. Its version is the older one of the last two attack steps (docs/architecture.md).

        Raises:
            SparringError: the attack is not finished.
        """
        if self.delta is None:
            raise SparringError(f"the attack on ticket {self.task.key} is not finished: it has steps left.")
        return self.prepared.shard(
            self.delta,
            self.check,
            version=min(self.versions[1:][-2:] or self.versions),
            seconds=self.seconds,
            cost_seconds=self.seconds,
            gradient_s=self._gradient_s(),
            attacked_by=tuple((made, len(list(steps))) for made, steps in groupby(self.versions[1:])),
        )

    def _gradient_s(self) -> float:
        """Seconds per gradient evaluation in the largest steps.

        0 (unknown) if these had less than half of the batch, because an example of a small batch takes longer.
        """
        sizes = [
            sum(count >= self._longest - step % self._longest for count in self._counts)
            for step in range(len(self.step_seconds))
        ]
        largest = max(sizes, default=0)
        taken = [seconds for size, seconds in zip(sizes, self.step_seconds, strict=True) if size == largest]
        return sum(taken) / (largest * len(taken)) if taken and 2 * largest >= len(self._counts) else 0.0


def begin(task: Task, context: AttackContext, controls: Controls, version: int) -> ShrinkingBatch | Augmentation:
    """Begin the attack on one task, or its augmentation."""
    kind = ShrinkingBatch if isinstance(context.attack, Attack) else Augmentation
    return kind(task, context, controls, version)


def produce(task: Task, context: AttackContext, controls: Controls, version: int) -> Shard:
    """Make the whole attack with fixed weights."""
    with frozen(context.model):
        work = begin(task, context, controls, version)
        while not work.done:
            work.advance(version)
    return work.shard()


def now(device: torch.device) -> float:
    """The time in seconds, after `device` has finished its queued work."""
    _finish(device)
    return time.perf_counter()


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _clean_logits(context: AttackContext, x: Tensor, attack: Attack) -> Tensor | None:
    """[N, K] of the clean images, if the allocator or the attack's loss needs them; one forward pass for both."""
    if context.allocator is None and not attack.maximised.needs_clean:
        return None
    return _forward(context.model, x)


def _helper_logits(context: AttackContext, x: Tensor, attack: Attack) -> Tensor | None:
    if attack.maximised.targets != "helper" or context.helper is None:
        return None
    with frozen(context.helper):
        return _forward(context.helper, x)


def _forward(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(x)
    return logits


def _allocation(
    context: AttackContext,
    x: Tensor,
    labels: Tensor,
    clean: Tensor | None,
    controls: Controls,
    attack: Attack,
    random: torch.Generator,
) -> Allocation | None:
    """Steps per example, or None if all get the same."""
    allocator = context.allocator_now(controls)
    if clean is None or allocator is None:
        return None
    return allocator.allocate(Candidates(context.model, x, labels, clean, attack, controls.robust_share, random))
