"""What a recipe costs on this machine: its own model, data and attack, timed for a few seconds.

Times are seconds per shard unless a name says otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch

from sparring.attacks import frozen
from sparring.attacks.norms import random_start
from sparring.config import AllocatorSettings, Config, trainer_threads, worker_threads
from sparring.errors import SparringError
from sparring.machine.threads import cores
from sparring.models.arrays import load_arrays, to_arrays
from sparring.models.forward import for_training
from sparring.queue.codec import decode_shard, encode_shard
from sparring.queue.messages import Controls, Key, Shard
from sparring.queue.sizing import MEMORY_SLACK_BYTES
from sparring.randomness import generator
from sparring.trainer.experiment import Experiment
from sparring.trainer.learner import Learner
from sparring.workers.generator import Production, begin, produce
from sparring.workers.views import Augmentation

BUDGET_S = 0.5  # for each figure that is measured
REPEATS = 15  # at most; the median of them counts


@dataclass(frozen=True)
class Measured:
    """This machine with this recipe. `*_core_s` are core-seconds: the time on one thread, 0 on a GPU."""

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
    forward_s: float = 0.0

    @property
    def latency_s(self) -> float:
        """From a finished attack to use, and from publication to use."""
        return self.encode_s + (self.round_trip_s or 0.0) + self.decode_s + self.snapshot_load_s


def measure(experiment: Experiment) -> Measured:
    """Time attack, step, codec, transport and snapshot; nothing of the run is kept."""
    config = experiment.config
    asynchronous = config.engine == "ray"
    device = _device(config, config.trainer.num_gpus, config.trainer.device)
    attacker = _device(config, config.workers.num_gpus, "auto") if asynchronous else device
    of_trainer = trainer_threads(config)
    of_worker = worker_threads(config) if asynchronous else of_trainer
    model, shard = experiment.model, _example(experiment)
    attack = {n: _attack_s(experiment, attacker, n) for n in {of_worker, 1 if attacker.type == "cpu" else of_worker}}
    forward_s = _forward_s(experiment, attacker, of_worker)
    learner = Learner(config, model, experiment.training, experiment.plan, device)
    step = {n: _step_s(learner, shard, n) for n in {of_trainer, 1 if device.type == "cpu" else of_trainer}}
    arrays = to_arrays(model.to("cpu"), half=config.model.precision == "bf16")
    with _threads(of_worker):
        payload = encode_shard(shard, config.queue.wire, config.attack.norm)
        encode_s = _seconds(lambda: encode_shard(shard, config.queue.wire, config.attack.norm))
        load_s = _seconds(lambda: load_arrays(model, arrays))
    with _threads(of_trainer):
        decode_s = _seconds(lambda: decode_shard(payload))
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
        round_trip_s=_round_trip_s(payload) if asynchronous else None,
        snapshot_bytes=sum(array.nbytes for array in arrays.values()),
        snapshot_load_s=load_s,
        forward_s=forward_s,
    )


def _device(config: Config, num_gpus: float, name: str) -> torch.device:
    """Where the recipe would compute, the CPU where this machine has no GPU."""
    one_process = config.engine != "ray" and name == "auto"
    wanted = name == "cuda" or (name == "auto" and num_gpus > 0) or one_process
    return torch.device("cuda" if wanted and torch.cuda.is_available() else "cpu")


def _example(experiment: Experiment) -> Shard:
    """A shard of the run with views, or a random perturbation: as large and as dear to encode as an attacked one."""
    threat, indices = experiment.config.attack, experiment.plan.indices(0, 0)
    if threat.name == "augmix":
        config, controls = _without_allocator(experiment.config), Controls(0.0)
        return produce(config, experiment.model, experiment.training, Key(0, 0, 0), indices, controls, 0)
    x = torch.empty(len(indices), *experiment.training.shape)
    delta = random_start(x, threat.norm, threat.epsilon, generator(experiment.config.train.seed, "explain"))
    labels = experiment.training.labels[torch.tensor(indices)]
    return Shard(Key(0, 0, 0), 0, 0, 0, threat.epsilon, delta, labels)


def _attack_s(experiment: Experiment, device: torch.device, threads: int) -> float:
    """A whole attack with all its steps: its beginning, and the median of its steps as often as it has steps.

    Without the allocator: it would spare an untrained network nearly everything. AugMix's views are all beginning.
    """
    config = _without_allocator(experiment.config)
    model = for_training(experiment.model.to(device), config.model)
    key, indices, epsilon = Key(0, 0, 0), experiment.plan.indices(0, 0), experiment.config.attack.epsilon

    def anew() -> Production | Augmentation:
        return begin(config, model, experiment.training, key, indices, Controls(epsilon), 0)

    current = [anew()]

    def advance() -> None:
        if current[0].done:
            current[0] = anew()
        current[0].advance(0)
        _finish(device)

    with _threads(threads), frozen(model):
        return _seconds(anew) + (current[0].steps * _seconds(advance) if current[0].steps else 0.0)


def _without_allocator(config: Config) -> Config:
    return config.model_copy(update={"allocator": AllocatorSettings()})


def _forward_s(experiment: Experiment, device: torch.device, threads: int) -> float:
    """A clean forward pass, as the allocator makes it."""
    model, count = (
        for_training(experiment.model.to(device), experiment.config.model),
        len(experiment.plan.indices(0, 0)),
    )
    x = torch.rand(count, *experiment.training.shape, device=device)

    def forward() -> None:
        model(x)
        _finish(device)

    with _threads(threads), frozen(model), torch.no_grad():
        return _seconds(forward)


def _step_s(learner: Learner, shard: Shard, threads: int) -> float:
    """A step's time per shard; of a step that takes longer than there is time for, fewer shards are taken."""
    with _threads(threads):
        began = time.perf_counter()
        learner.learn([shard])
        alone = time.perf_counter() - began
        count = max(1, min(learner.plan.shards_per_step, int(BUDGET_S / (3 * alone))))

        def step() -> None:
            learner.learn([shard] * count)
            _finish(learner.device)

        return _seconds(step) / count


def _round_trip_s(payload: bytes) -> float | None:
    """SET and GET of a payload at a server on this machine; None where none can be started."""
    from sparring.queue.server import EmbeddedServer  # with it comes Redis, which other engines do without

    try:
        with EmbeddedServer(maxmemory=MEMORY_SLACK_BYTES + 4 * len(payload)) as server, server.client() as client:

            def there_and_back() -> None:
                client.set("payload", payload)
                client.get("payload")

            return _seconds(there_and_back)
    except SparringError:
        return None


def _seconds(work: Callable[[], object]) -> float:
    """Median time of `work` after a warm-up, within `BUDGET_S`."""
    work()
    times: list[float] = []
    deadline = time.perf_counter() + BUDGET_S
    while len(times) < REPEATS and (not times or time.perf_counter() < deadline):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return median(times)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
