"""What saturates first as devices are added: a trainer, the queue's server, the payloads' servers, a network.

Pure, but for `server_load`, which measures.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from sparring.config import Config
from sparring.engines.virtual.times import attack_step_s, step_s
from sparring.queue.codec import payload_bytes
from sparring.queue.sizing import through_object_store
from sparring.trainer.experiment import Experiment, methods_of

TIMEOUT_S = 60.0


@dataclass(frozen=True)
class ServerLoad:
    """Processor time of a server in seconds: for the scripts of a ticket, and for a payload in and out."""

    ticket_s: float
    payload_s: float


@dataclass(frozen=True)
class Limit:
    """A part of the pipeline, how many shards a second it carries, and how many devices make as many."""

    part: str
    shards_per_second: float
    devices: float
    remedy: str


def limits(config: Config, shape: tuple[int, int, int], snapshot_bytes: int, load: ServerLoad) -> list[Limit]:
    """The limits of a recipe as it is, the lowest first. Times and the bandwidth are those of `virtual`.

    A device makes 1 / (attack + step) shards a second, whatever it does. A worker takes the newest weights with each
    ticket.
    """
    model, queue, examples = config.virtual, config.queue, config.train.batch_size
    training_s = step_s(model, examples)
    device_s = methods_of(config).attack.steps * attack_step_s(model, examples) + training_s
    size = payload_bytes(examples, shape, queue.wire, config.attack.norm)
    servers = len(queue.payload_urls) or 1
    by_queue = 0 if through_object_store(queue, snapshot_bytes) else snapshot_bytes
    control_s = load.ticket_s if queue.payload_urls else load.ticket_s + load.payload_s
    carried = {
        "the trainers' steps": (config.trainer.count / training_s, "trainer.count"),
        "the queue's server": (1 / control_s, "train.batch_size" if queue.payload_urls else "queue.payload_urls"),
        "the network of the trainers": (config.trainer.count * model.bandwidth / size, "trainer.count"),
    }
    if queue.payload_urls:
        carried["the payload servers"] = servers / load.payload_s, "queue.payload_urls"
    carried["the network of the payloads"] = servers * model.bandwidth / size, "queue.payload_urls"
    if by_queue:
        carried["the weights through the queue"] = model.bandwidth / by_queue, 'queue.weights = "object_store"'
    found = [Limit(part, rate, rate * device_s, remedy) for part, (rate, remedy) in carried.items()]
    return sorted(found, key=lambda limit: limit.devices)


def limits_here(config: Config, experiment: Experiment) -> list[Limit]:
    """`limits` of an experiment, with the load of a server on this machine; none where no server can be started.

    config: the experiment's, with the times of `virtual`.
    """
    shape = experiment.training.shape
    size = payload_bytes(config.train.batch_size, shape, config.queue.wire, config.attack.norm)
    load = server_load(size)
    return [] if load is None else limits(config, shape, experiment.snapshot_bytes, load)


def server_load(size_bytes: int) -> ServerLoad | None:
    """Measured in a subprocess, so that this process needs no Redis client; None if no server can be started."""
    command = [sys.executable, "-m", "sparring.queue.server_load", str(size_bytes)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return None
    return ServerLoad(*map(float, done.stdout.split())) if done.returncode == 0 else None


def sentence(found: Sequence[Limit]) -> str:
    """In words; empty where nothing is known."""
    if not found:
        return ""
    first, *others = (f"{each.part} at {each.devices:,.0f} devices ({each.remedy})" for each in found)
    return f"What saturates first as devices are added: {first}; then {', '.join(others)}."
