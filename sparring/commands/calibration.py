"""Measure what a recipe costs on this machine: its model, data and attack are timed for a few seconds.

Times are seconds per shard unless a name says otherwise.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median

import torch

from sparring.attacks import Attack, frozen
from sparring.config import Config, trainer_threads, worker_threads
from sparring.machine.memory import keep_freed_memory
from sparring.machine.threads import cores
from sparring.machine.timing import BUDGET_S, median_seconds
from sparring.models.arrays import load_arrays, to_arrays
from sparring.models.forward import for_training
from sparring.queue.codec import decode_shard, encode_shard
from sparring.queue.messages import Controls, Key, Shard
from sparring.randomness import generator
from sparring.trainer.experiment import Experiment
from sparring.trainer.learner import Learner
from sparring.workers.generator import ShrinkingBatch, begin, produce
from sparring.workers.task import AttackContext, Task
from sparring.workers.views import Augmentation

ROUND_TRIP_TIMEOUT_S = 60.0
ROUNDS = 3


@dataclass(frozen=True)
class Measured:
    """Measurements of a recipe on this machine.

    attack_s, step_s: with the threads of a worker and of the trainer; `*_one_s`: with one thread, or on the GPU;
    `*_core_s`: of these the seconds of a core, 0 on a GPU; snapshot_send_s: SET and GET of a snapshot; alone_s: attack
    and step of one process that has all cores, or one GPU.
    """

    shape: tuple[int, int, int]
    device: str
    cores: int
    worker_threads: int
    trainer_threads: int
    attack_s: float
    step_s: float
    attack_core_s: float
    step_core_s: float
    encode_s: float
    decode_s: float
    payload_bytes: int
    round_trip_s: float | None
    snapshot_bytes: int
    snapshot_load_s: float
    snapshot_send_s: float = 0.0
    forward_s: float = 0.0
    attack_one_s: float = 0.0
    step_one_s: float = 0.0
    alone_s: float = 0.0
    gpus: int = 0
    makes_views: bool = False

    @property
    def transport_s(self) -> float:
        """Latency from a finished attack to its use: encode, SET and GET, decode."""
        return self.encode_s + (self.round_trip_s or 0.0) + self.decode_s

    @property
    def publication_s(self) -> float:
        """Latency from the end of a step to the use of its weights: SET and GET, load."""
        return self.snapshot_send_s + self.snapshot_load_s

    @property
    def latency_s(self) -> float:
        """Both latencies."""
        return self.transport_s + self.publication_s


def measure(experiment: Experiment, *, asynchronous: bool | None = None) -> Measured:
    """Time the attack, the training step, the codec, the transport and the snapshot, with memory kept as in a run.

    Nothing is written. asynchronous: whether there are workers and a queue; by default where the engine is ray.
    """
    keep_freed_memory()
    config = experiment.config
    if asynchronous is None:
        asynchronous = config.engine == "ray"
    device = _device(config, config.trainer.num_gpus, config.trainer.device)
    attacker = _device(config, config.workers.num_gpus, "auto") if asynchronous else device
    of_trainer = trainer_threads(config)
    of_worker = worker_threads(config.workers, config.trainer.count) if asynchronous else of_trainer
    model, shard = experiment.model, example_shard(experiment)
    everything = cores() if device.type == "cpu" else of_trainer
    learner = Learner(experiment, device)
    attack, step = _attacks_and_steps(experiment, learner, attacker, shard, {of_worker, of_trainer, 1, everything})
    forward_s = _forward_s(experiment, attacker, of_worker)
    arrays = to_arrays(model.to("cpu"), half=config.model.precision == "bf16")
    with torch_threads(of_worker):
        payload = encode_shard(shard, config.queue.wire)
        encode_s = median_seconds(lambda: encode_shard(shard, config.queue.wire))
        load_s = median_seconds(lambda: load_arrays(model, arrays))
    with torch_threads(of_trainer):
        decode_s = median_seconds(lambda: decode_shard(payload))
    snapshot_bytes = sum(array.nbytes for array in arrays.values())
    round_trip_s, send_s = _round_trips_s(len(payload), snapshot_bytes) if asynchronous else (None, None)
    return Measured(
        shape=experiment.training.shape,
        device=device.type if device == attacker else f"{device.type}, workers {attacker.type}",
        cores=cores(),
        worker_threads=of_worker,
        trainer_threads=of_trainer,
        attack_s=attack[of_worker],
        step_s=step[of_trainer],
        attack_core_s=attack[1] if attacker.type == "cpu" else 0.0,
        step_core_s=step[1] if device.type == "cpu" else 0.0,
        encode_s=encode_s,
        decode_s=decode_s,
        payload_bytes=len(payload),
        round_trip_s=round_trip_s,
        snapshot_bytes=snapshot_bytes,
        snapshot_load_s=load_s,
        snapshot_send_s=send_s or 0.0,
        forward_s=forward_s,
        attack_one_s=attack[1],
        step_one_s=step[1],
        alone_s=attack[everything] + step[everything],
        gpus=torch.cuda.device_count(),
        makes_views=experiment.attack.makes_views,
    )


def _device(config: Config, num_gpus: float, name: str) -> torch.device:
    """The device that the recipe would use; the CPU if this machine has no GPU."""
    one_process = config.engine != "ray" and name == "auto"
    uses_gpu = name == "cuda" or (name == "auto" and num_gpus > 0) or one_process
    return torch.device("cuda" if uses_gpu and torch.cuda.is_available() else "cpu")


def example_shard(experiment: Experiment) -> Shard:
    """A shard with views or with a random perturbation, which costs as much to encode as a real one."""
    attack, indices = experiment.attack, experiment.plan.indices(0, 0)
    if not isinstance(attack, Attack):
        return produce(Task(Key(0, 0, 0), indices), without_allocator(experiment.context()), Controls(0.0), 0)
    x = torch.full((len(indices), *experiment.training.shape), 0.5)
    random = generator(experiment.config.train.seed, "explain")
    delta = attack.project(attack.epsilon * (2 * torch.rand(x.shape, generator=random) - 1), x, attack.radius)
    labels = experiment.training.labels[torch.tensor(indices)]
    return Shard(Key(0, 0, 0), 0, 0, 0, attack.record, delta, labels)


def _attacks_and_steps(
    experiment: Experiment, learner: Learner, attacker: torch.device, shard: Shard, threads: set[int]
) -> tuple[dict[int, float], dict[int, float]]:
    """Times of an attack and of a training step by the number of threads: medians of rounds in which all have their
    turn, so that what else the machine does meets all of them alike."""
    attacks: dict[int, list[float]] = {count: [] for count in threads}
    steps: dict[int, list[float]] = {count: [] for count in threads}
    for _ in range(ROUNDS):
        for count in sorted(threads):
            attacks[count].append(_attack_s(experiment, attacker, count))
            experiment.model.to(learner.device)
            steps[count].append(_step_s(learner, shard, count))
    return {n: median(each) for n, each in attacks.items()}, {n: median(each) for n, each in steps.items()}


def _attack_s(experiment: Experiment, device: torch.device, threads: int) -> float:
    """Time of a whole attack: its setup plus its number of steps times the median time of a step.

    The allocator is left out, because it would skip nearly all steps of an untrained network. For AugMix the setup is
    everything.
    """
    model = for_training(experiment.model.to(device), experiment.config.model)
    context = without_allocator(experiment.context(model))
    task, controls = Task(Key(0, 0, 0), experiment.plan.indices(0, 0)), Controls(experiment.attack.epsilon)

    def restart() -> ShrinkingBatch | Augmentation:
        return begin(task, context, controls, 0)

    current = [restart()]

    def advance() -> None:
        if current[0].done:
            current[0] = restart()
        current[0].advance(0)
        finish(device)

    with torch_threads(threads), frozen(model):
        steps = current[0].steps
        begin_s = median_seconds(restart, BUDGET_S / ROUNDS)
        return begin_s + (steps * median_seconds(advance, BUDGET_S / ROUNDS) if steps else 0.0)


def without_allocator(context: AttackContext) -> AttackContext:
    """Every example gets all steps of the attack."""
    return replace(context, allocator=None)


def _forward_s(experiment: Experiment, device: torch.device, threads: int) -> float:
    """Time of a clean forward pass, as the allocator makes it."""
    model, count = (
        for_training(experiment.model.to(device), experiment.config.model),
        len(experiment.plan.indices(0, 0)),
    )
    x = torch.rand(count, *experiment.training.shape, device=device)

    def forward() -> None:
        model(x)
        finish(device)

    with torch_threads(threads), frozen(model), torch.no_grad():
        return median_seconds(forward)


def _step_s(learner: Learner, shard: Shard, threads: int) -> float:
    """Time of a training step per shard. Where a whole step would take too long, it follows from shorter ones: a part
    of it, such as the optimizer's, is the same for any number of shards."""

    def step_of(shards: int) -> Callable[[], None]:
        def step() -> None:
            learner.learn(learner.batch([shard] * shards), 0)
            finish(learner.device)

        return step

    of_step, budget_s = learner.plan.shards_per_step, BUDGET_S / ROUNDS
    with torch_threads(threads):
        began = time.perf_counter()
        step_of(1)()
        fit = max(1, int(BUDGET_S / (3 * (time.perf_counter() - began))))
        if of_step <= 2 * fit:
            return median_seconds(step_of(of_step), budget_s) / of_step
        short_s, long_s = median_seconds(step_of(fit), budget_s), median_seconds(step_of(2 * fit), budget_s)
    return extrapolated(fit, short_s, 2 * fit, long_s, of_step) / of_step


def extrapolated(count: int, seconds: float, more: int, more_seconds: float, wanted: int) -> float:
    """Time for `wanted` shards, of which each takes equally long, from the times for `count` and for `more` of them."""
    of_each = max(0.0, more_seconds - seconds) / (more - count)
    return seconds + of_each * (wanted - count)


def _round_trips_s(*sizes_bytes: int) -> tuple[float | None, ...]:
    """Time of SET and GET of each payload with a server on this machine; None if no server can be started.

    It is measured in a subprocess, so that this process needs no Redis client.
    """
    command = [sys.executable, "-m", "sparring.queue.round_trip", *map(str, sizes_bytes)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ROUND_TRIP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return (None,) * len(sizes_bytes)
    return tuple(map(float, done.stdout.split())) if done.returncode == 0 else (None,) * len(sizes_bytes)


def finish(device: torch.device) -> None:
    """Wait until the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """So many torch threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
