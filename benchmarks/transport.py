"""What it costs to move a shard, and a snapshot, against what the same client and Ray move without us.

    python -m benchmarks.transport [--repetitions 200] [--redis redis://HOST:PORT/0]

A shard is 128 x 3 x 32 x 32. Through Redis (an embedded server, or the one that is named), one shard after the other,
in one thread: bare, SET and GET of the same bytes; ours, commit and receive, first with bytes that are ready and then
with encoding and decoding; the lease of its ticket, which is taken before the attack, apart. A snapshot is 60 tensors
of 44 MB in all: a bare `ray.put`, against a publication through the object store (put, notice), and how long it holds
up a loop whose next change of the weights comes 8 or 16 ms after it began: a step's forward and backward pass on one
shard or two, of which a sleep takes the place.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any
from unittest.mock import patch

import numpy as np
import ray
import redis
import torch

from benchmarks.measure import header, in_turn, machine, row, spread
from sparring.attacks import PGD
from sparring.attacks.norms import project_ball
from sparring.engines.asynchronous.background import Background
from sparring.engines.asynchronous.snapshot import Snapshot
from sparring.engines.ray.snapshots import RayRoute, SnapshotStore
from sparring.models.arrays import Arrays
from sparring.queue.codec import Wire, decode_shard, encode_shard
from sparring.queue.connection import connect
from sparring.queue.messages import Controls, Key, Lease, Shard, Ticket
from sparring.queue.server import EmbeddedServer
from sparring.queue.transport import Transport

SHAPE, EPSILON = (128, 3, 32, 32), 8 / 255
TENSORS, NUMBERS = 60, 11_000_000
STEPS_S = (0.008, 0.016)
WIRES: tuple[Wire, ...] = ("int8", "sign", "exact")


def shard_of(key: Key, fence: int) -> Shard:
    """Most values at the surface of the ball, as PGD leaves them."""
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    delta = project_ball(noise * EPSILON, "linf", EPSILON)
    return Shard(key, fence, 0, 0, PGD(EPSILON).record, delta, torch.arange(SHAPE[0]) % 10, worker="worker-0")


class Queue:
    """One run's queue, with a shard to move again and again."""

    def __init__(self, client: redis.Redis, wire: Wire) -> None:
        self.client: Any = client
        self.transport = Transport(client, "benchmark-transport", lease_s=60, timeout_s=10, wire=wire)
        self.fence, self.number = self.transport.current_fence() + 1, 0
        self.transport.open(self.fence)
        self.shard = shard_of(Key(0, 0, 0), self.fence)
        self.payload = encode_shard(self.shard, wire)
        self.lease: Lease

    def bare(self) -> None:
        self.client.set("benchmark-bare", self.payload)
        self.client.get("benchmark-bare")

    def issue(self) -> None:
        """The trainer's part, done for many tickets at once in a run: not timed."""
        self.number += 1
        key = Key(0, self.number, 0)
        self.transport.issue([Ticket(key, self.fence, 0, tuple(range(SHAPE[0])), "benchmark")])
        self.shard = shard_of(key, self.fence)

    def take(self) -> None:
        lease = self.transport.lease("worker-0", 0.0)
        assert isinstance(lease, Lease)
        self.lease = lease

    def through(self) -> None:
        assert self.transport.commit(self.lease, self.shard)
        assert self.transport.receive(1.0) is not None

    @contextmanager
    def bytes_ready(self) -> Iterator[None]:
        """Within it `through` has no codec."""
        with (
            patch("sparring.queue.transport.encode_shard", lambda *_: self.payload),
            patch("sparring.queue.transport.decode_shard", lambda *_: self.shard),
        ):
            yield


@contextmanager
def server(url: str | None) -> Iterator[redis.Redis]:
    if url is not None:
        yield connect(url, os.environ.get("SPARRING_REDIS_PASSWORD"), 10.0)
        return
    with EmbeddedServer(maxmemory=256 << 20) as embedded:
        yield connect(embedded.url, embedded.password, 10.0)


def shards(options: argparse.Namespace) -> None:
    pixels = int(np.prod(SHAPE))
    print(header("wire", "bytes per pixel", "encode, ms", "decode, ms"))
    for wire in WIRES:
        shard = shard_of(Key(0, 0, 0), 1)
        payload = encode_shard(shard, wire)
        works: dict[str, Callable[[], object]] = {
            "encode": partial(encode_shard, shard, wire),
            "decode": partial(decode_shard, payload),
        }
        took = in_turn(works, options.repetitions)
        print(row(wire, f"{len(payload) / pixels:.3f}", *(spread(_ms(took[name])) for name in works)))
    print(f"\nthrough {options.redis or 'an embedded server'}, ms a shard; share: bare over ours\n")
    print(header("wire", "bare SET and GET", "bytes ready", "share", "with codec", "share", "lease"))
    with server(options.redis) as client:
        for wire in WIRES:
            print(row(wire, *_of_wire(Queue(client, wire), options.repetitions)))


def _of_wire(path: Queue, repetitions: int) -> list[str]:
    ways: dict[str, Callable[[], AbstractContextManager[None]]] = {"ready": path.bytes_ready, "whole": nullcontext}
    took: dict[str, list[float]] = {}
    for turn in range(repetitions):
        for name, prepared in ways.items():
            path.issue()
            with prepared():
                one = in_turn({"lease": path.take, f"bare, {name}": path.bare, name: path.through}, 1, warm_up=0)
            if turn >= repetitions // 10:
                for part, seconds in one.items():
                    took.setdefault(part, []).extend(seconds)
    path.transport.forget()
    share = {name: [bare / ours for bare, ours in zip(took[f"bare, {name}"], took[name], strict=True)] for name in ways}
    ms = {part: spread(_ms(seconds)) for part, seconds in took.items()}
    return [ms["bare, ready"], ms["ready"], spread(share["ready"]), ms["whole"], spread(share["whole"]), ms["lease"]]


def snapshots(repetitions: int) -> None:
    arrays: Arrays = {f"weights{n}": np.ones(NUMBERS // TENSORS, np.float32) for n in range(TENSORS)}
    store: Any = ray.remote(SnapshotStore).options(num_cpus=0).remote()
    route, version = RayRoute(store), 0
    waits: dict[float, list[float]] = {step_s: [] for step_s in STEPS_S}

    def publish(version: int, copied: Callable[[], None] = lambda: None) -> None:
        route.publish(Snapshot(1, version, Controls(EPSILON), arrays), copied)

    def published() -> None:
        nonlocal version
        version += 1
        publish(version)

    beside_the_steps: Background[None] = Background("publish")

    def beside_a_step(step_s: float) -> None:
        nonlocal version
        version += 1
        copied = Event()
        beside_the_steps.start(partial(publish, version, copied.set))
        time.sleep(step_s)  # in the place of forward and backward pass, during which the weights do not change
        began = time.monotonic()
        copied.wait()
        waits[step_s].append(time.monotonic() - began)
        beside_the_steps.settle()

    bare: list[Any] = []

    def put() -> None:
        bare[:] = [ray.put(arrays)]

    beside = {f"{step_s}": partial(beside_a_step, step_s) for step_s in STEPS_S}
    took = in_turn({"bare": put, "ours": published, **beside}, repetitions)
    beside_the_steps.close(60.0)
    ratios = [ours / alone for ours, alone in zip(took["ours"], took["bare"], strict=True)]
    print(f"\nsnapshots of {4 * NUMBERS / 1e6:.0f} MB, ms\n")
    print(
        header(
            "bare ray.put",
            "a publication",
            "over ray.put",
            *(f"holds up a step of {1000 * step_s:g} ms" for step_s in STEPS_S),
        )
    )
    held = [spread(_ms(seconds)) for seconds in waits.values()]
    print(row(spread(_ms(took["bare"])), spread(_ms(took["ours"])), spread(ratios), *held))


def _ms(seconds: list[float]) -> list[float]:
    return [1000 * each for each in seconds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=200)
    parser.add_argument("--redis", help="a server of your own; its password in $SPARRING_REDIS_PASSWORD")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{machine()}; medians, least and greatest\n")
    shards(options)
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_worker_niceness="0", HOME=str(Path(folder)))
        ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=1 << 30, log_to_driver=False)
        try:
            snapshots(max(20, options.repetitions // 5))
        finally:
            ray.shutdown()


if __name__ == "__main__":
    main()
