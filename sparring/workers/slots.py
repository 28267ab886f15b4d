"""Attack steps in slots: a batch of fixed shape in which every slot has its own example (continuous batching).

    begin(ticket)     its examples wait, those with the most steps first
    advance(version)  one attack step on all slots; a finished slot is refilled with the next example that is due

Shapes never change, so a GPU is used as well at the end of a ticket as at its beginning. Idle slots are computed too,
and ignored. With `hold_back`, an example is due when no example of its ticket has more steps left than it: the examples
of a ticket then end together, on weights nearly as new as those of a batch that shrinks, and the next ticket gets the
free slots. Without it, examples are due at once.

Pure except for the measured times.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from sparring.attacks import GradientCheck
from sparring.attacks.iteration import ascended, starting_point
from sparring.queue.messages import Controls, Key, Shard
from sparring.workers.generator import PreparedTask, now, prepare_task
from sparring.workers.task import AttackContext, Task


class Slots:
    """`count` slots of one model, which should be `frozen`; newer weights may be loaded between two calls."""

    def __init__(self, context: AttackContext, count: int, *, hold_back: bool) -> None:
        self.context, self.count, self.hold_back = context, count, hold_back
        self._jobs: list[_Job] = []
        self._slots: list[_Slot | None] = [None] * count
        self._batches: dict[str, _Batch] = {}  # by the attack's name: a guard may replace the attack
        self._previous_version = 0

    @property
    def has_room(self) -> bool:
        """Whether there are enough free slots for another ticket.

        With `hold_back`, as many as the last ticket has examples with the most steps. A ticket that began with fewer
        would end late, and its first examples would be stale by then.
        """
        needed = self._jobs[-1].longest if self._jobs and self.hold_back else 1
        return self._slots.count(None) >= (needed if needed <= self.count else 1)

    @property
    def busy(self) -> bool:
        """Whether there are unfinished tickets."""
        return bool(self._jobs)

    @property
    def active(self) -> int:
        """Rows of the batches that the next step computes: all slots, also idle ones, of every attack."""
        return self.count * len(self._attacks())

    def begin(self, task: Task, controls: Controls, version: int) -> None:
        """Accept a task; `version` is that of the model's current weights."""
        began = time.perf_counter()
        ready = prepare_task(task, self.context, controls, version)
        self._jobs.append(_Job(ready, began))
        self._batches.setdefault(ready.attack.name, _Batch(ready, self.count))
        self._fill()

    def drop(self, owner: tuple[int, Key]) -> None:
        """Drop a ticket, given its fence and key, and give its slots to others."""
        self._jobs = [job for job in self._jobs if job.ready.task.owner != owner]
        for number, slot in enumerate(self._slots):
            if slot is not None and slot.job.ready.task.owner == owner:
                self._slots[number] = None
        self._fill()

    def clear(self) -> None:
        """Drop all tickets."""
        self._jobs, self._slots = [], [None] * self.count

    def advance(self, version: int) -> list[Shard]:
        """Make one attack step with the model's weights, of `version`; returns the shards that are finished by it."""
        if any(self._slots):
            began = time.perf_counter()
            for name in self._attacks():
                self._batches[name].step(self.context.model)
            self._count_step(version)
            self._fill()
            self._divide_time(now(next(self.context.model.parameters()).device) - began)
        ended = [job for job in self._jobs if job.done]
        self._jobs = [job for job in self._jobs if not job.done]
        return [job.shard() for job in ended]

    def _count_step(self, version: int) -> None:
        """Count the step and free the slots whose examples have finished. An example's last two steps are also the last
        two steps of all slots."""
        for job in self._jobs:
            job.active = job.horizon = 0
        for _, slot in self._taken():
            slot.job.active += 1
            slot.left -= 1
            slot.job.horizon = max(slot.job.horizon, slot.left)
        for job in self._jobs:
            ended = [(number, slot) for number, slot in self._taken() if slot.job is job and slot.left == 0]
            for number, slot in ended:
                oldest = min(version, self._previous_version) if job.counts[slot.example] > 1 else version
                job.version = oldest if job.version is None else min(job.version, oldest)
                self._slots[number] = None
            job.ended += len(ended)
            self._batch_of(job).take_out(job, [number for number, _ in ended], [slot.example for _, slot in ended])
        self._previous_version = version

    def _fill(self) -> None:
        """Give free slots to the examples that are due, those of the oldest ticket first."""
        free = deque(number for number, slot in enumerate(self._slots) if slot is None)
        for job in self._jobs:
            numbers, examples = [], []
            while free and job.is_due(self.hold_back):
                numbers.append(free.popleft())
                examples.append(job.waiting.popleft())
                self._slots[numbers[-1]] = _Slot(job, examples[-1], job.counts[examples[-1]])
                job.horizon = max(job.horizon, job.counts[examples[-1]])
            if numbers:
                self._batch_of(job).put_in(job, numbers, examples)

    def _divide_time(self, seconds: float) -> None:
        """Divide the time of a step, including idle slots, among the tickets that had slots in it."""
        active = sum(job.active for job in self._jobs)
        for job in self._jobs:
            if job.active:
                job.cost_seconds += seconds * job.active / active
                job.steps_seconds += seconds / self.count
                job.steps += 1

    def _batch_of(self, job: _Job) -> _Batch:
        return self._batches[job.ready.attack.name]

    def _attacks(self) -> set[str]:
        """Names of the attacks under way: a guard may have replaced that of newer tickets."""
        return {slot.job.ready.attack.name for _, slot in self._taken()}

    def _taken(self) -> Iterator[tuple[int, _Slot]]:
        return ((number, slot) for number, slot in enumerate(self._slots) if slot is not None)


class _Job:
    """An unfinished ticket.

    waiting: examples without a slot. longest: number of examples with the most steps. horizon: most steps left in any
    of its slots. active: slots that it had in the last step.
    """

    def __init__(self, ready: PreparedTask, began: float) -> None:
        self.ready, self.began = ready, began
        self.counts = ready.step_counts()
        self.delta = starting_point(ready.x, ready.attack, ready.random, ready.task.start)
        self.state = ready.attack.state(ready.x)
        self.check = GradientCheck(len(self.counts), ready.x.device)
        attacked = [example for example, count in enumerate(self.counts) if count]
        clean = [example for example, count in enumerate(self.counts) if not count]
        self.delta[torch.tensor(clean, dtype=torch.int64, device=self.delta.device)] = 0
        self.waiting = deque(sorted(attacked, key=lambda example: -self.counts[example]))
        self.attacked, self.ended = len(attacked), 0
        self.longest = max(1, self.counts.count(max(self.counts)))
        self.horizon = self.active = self.steps = 0
        self.version: int | None = None
        self.cost_seconds, self.steps_seconds = ready.seconds, 0.0

    @property
    def done(self) -> bool:
        return self.ended == self.attacked

    def is_due(self, hold_back: bool) -> bool:
        """Whether the next waiting example should get a slot."""
        return bool(self.waiting) and (not hold_back or self.counts[self.waiting[0]] >= self.horizon)

    def step_sizes(self) -> Tensor:
        """Step size of each example, float32 [N] on the device of the examples."""
        if self.ready.allocation is not None:
            return self.ready.allocation.step_sizes
        return torch.full((len(self.counts),), self.ready.attack.alpha, device=self.ready.x.device)

    def shard(self) -> Shard:
        """The finished shard; its version is the oldest version among its examples."""
        return self.ready.shard(
            self.delta,
            self.check,
            version=self.ready.version if self.version is None else self.version,
            seconds=time.perf_counter() - self.began,
            cost_seconds=self.cost_seconds,
            gradient_s=self.steps_seconds / self.steps if self.steps else 0.0,
        )


class _Slot:
    """The example in a slot, and its number of steps left."""

    def __init__(self, job: _Job, example: int, left: int) -> None:
        self.job, self.example, self.left = job, example, left


class _Batch:
    """The tensors of all slots; their shapes never change."""

    def __init__(self, ready: PreparedTask, count: int) -> None:
        x, targets = ready.x, ready.targets
        self.attack = ready.attack
        self.x = x.new_zeros(count, *x.shape[1:])
        self.delta = torch.zeros_like(self.x)
        self.state = self.attack.state(self.x)
        self.check = GradientCheck(count, x.device)
        self.targets = targets.new_zeros(count, *targets.shape[1:])
        self.sizes, self.radii = x.new_zeros(count), x.new_ones(count)

    def step(self, model: nn.Module) -> None:
        """One attack step on every slot."""
        self.delta = ascended(
            model, self.x, self.delta, self.targets, self.attack, self.sizes, self.radii, self.state, self.check
        )

    def put_in(self, job: _Job, numbers: list[int], examples: list[int]) -> None:
        """Copy examples of a ticket into the slots with these numbers."""
        to, at = self._indices(numbers), self._indices(examples)
        self.x[to], self.delta[to], self.targets[to] = job.ready.x[at], job.delta[at], job.ready.targets[at]
        self.sizes[to], self.radii[to] = job.step_sizes()[at], job.ready.attack.radius
        self.check.copy(job.check, to, at)
        for name, kept in job.state.items():
            self.state[name][to] = kept[at]

    def take_out(self, job: _Job, numbers: list[int], examples: list[int]) -> None:
        """Copy the perturbations in these slots to their ticket."""
        if numbers:
            to, at = self._indices(examples), self._indices(numbers)
            job.delta[to] = self.delta[at]
            job.check.copy(self.check, to, at)

    def _indices(self, numbers: list[int]) -> Tensor:
        return torch.tensor(numbers, device=self.x.device)
