"""Many workers on one Redis: what a lease and a commit take, whether anything is lost, and whether all get their share.

    python -m benchmarks.load [--workers 64] [--seconds 60] [--attack-ms 1500]

Each worker is a process of its own with the worker's side of the queue (lease, renewals, encode, checksum, commit); its
attack is a timed wait. A shard is 128 x 3 x 32 x 32 in int8 (393 KB). The other side is the trainer's: ledger, receive,
checksum, decode, and steps of one shard for each worker that take no time. The server is embedded. A lease is counted
where a ticket was there, as it always is while the run goes on; a commit with encoding and checksum. All times are wall
times on this machine's cores, which the workers share.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import threading
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import torch

from benchmarks.measure import header, machine, row
from benchmarks.transport import SHAPE, shard_of
from sparring.queue.connection import connect
from sparring.queue.ledger import Ledger
from sparring.queue.messages import Key, Lease, Missing, Stop, Ticket
from sparring.queue.server import EmbeddedServer
from sparring.queue.transport import Transport

RUN, FENCE, LEASE_S, TIMEOUT_S, SECRET = "benchmark-load", 1, 15.0, 30.0, b"k" * 32
SETTLE_S = 5.0


def transport(url: str, password: str) -> Transport:
    return Transport(connect(url, password, TIMEOUT_S), RUN, lease_s=LEASE_S, timeout_s=TIMEOUT_S, secret=SECRET)


def work(url: str, password: str, name: str, attack_s: float, counted: tuple[float, float], told: Any) -> None:
    """A worker until it is stopped; tells its number of shards and its times, in ms, between two points in time."""
    torch.set_num_threads(1)
    side, beating, stopped = transport(url, password), transport(url, password), threading.Event()
    held, made = list[Lease](), shard_of(Key(0, 0, 0), FENCE)
    threading.Thread(target=_beat, args=(beating, name, held, stopped), daemon=True).start()
    leases, commits, shards = list[float](), list[float](), 0
    while True:
        began = time.perf_counter()
        lease = side.lease(name, 0.0)
        took = time.perf_counter() - began
        if lease is None:
            lease = side.lease(name, 1.0)
        elif counted[0] < time.time() < counted[1]:
            leases.append(1000 * took)
        if isinstance(lease, Stop):
            break
        if lease is None:
            continue
        held[:] = [lease]
        time.sleep(attack_s)
        shard, began = replace(made, key=lease.ticket.key, worker=name), time.perf_counter()
        if side.commit(lease, shard) and counted[0] < time.time() < counted[1]:
            commits.append(1000 * (time.perf_counter() - began))
            shards += 1
        held.clear()
    stopped.set()
    told.put((name, shards, leases, commits))


def _beat(side: Transport, name: str, held: list[Lease], stopped: threading.Event) -> None:
    """As often as the real worker's: renew, report, look for a stop."""
    while not stopped.wait(1.0):
        for lease in held.copy():
            side.renew(lease)
        side.heartbeat(name, {"shards": 0})
        side.stopping(name)


def consume(side: Transport, workers: int, seconds: float) -> tuple[Counter[int], Counter[str]]:
    """The trainer's side for so long: how often each ticket was trained on, and what was lost."""
    ledger = Ledger(shards_by_epoch=[10**6], shards_per_step=workers, depth=2, max_staleness=4, attempts=3)
    used, lost, step, limit = Counter[int](), Counter[str](), 0, time.monotonic() + seconds
    while time.monotonic() < limit:
        keys = ledger.issue()
        side.issue([Ticket(key, FENCE, 0, tuple(range(SHAPE[0])), "benchmark") for key in keys])
        for returned in side.expired(FENCE):
            lost[returned.reason] += 1
            ledger.lose(returned.key, returned.reason)
        received = side.receive(0.05)
        if isinstance(received, Missing):
            lost[received.reason] += 1
            ledger.lose(received.key, received.reason)
        elif received is not None:
            ledger.arrive(received.key, step)
        taken = ledger.take(step)
        if taken is not None and taken.keys:
            used.update(key.number for key in taken.keys)
            step += 1
            ledger.trained(taken.keys)
            ledger.retire(taken.keys)
    return used, lost


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Many workers on one Redis.")
    parser.add_argument("--workers", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--attack-ms", type=float, default=1500.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(machine() + "\n")
    print(
        header(
            "workers",
            "shards/s",
            "ideal",
            "slowest worker / mean",
            "lease, ms: median, p99",
            "commit",
            "lost",
            "doubled",
        )
    )
    for workers in options.workers:
        print(measured(workers, options.seconds, options.attack_ms / 1000), flush=True)


def measured(workers: int, seconds: float, attack_s: float) -> str:
    """A row of the table."""
    context = multiprocessing.get_context("fork")  # they share what is imported
    told: Any = context.Queue()
    with EmbeddedServer(maxmemory=1 << 30) as server:
        side = transport(server.url, server.password)
        side.open(FENCE)
        counted = time.time() + SETTLE_S, time.time() + SETTLE_S + seconds
        names = [f"w{number}" for number in range(workers)]
        processes = [
            context.Process(target=work, args=(server.url, server.password, name, attack_s, counted, told))
            for name in names
        ]
        for process in processes:
            process.start()
        used, lost = consume(side, workers, SETTLE_S + seconds)
        side.request_stop()
        found = [told.get(timeout=60) for _ in names]
        for process in processes:
            process.join(timeout=30)
        side.close()
    shards = [each[1] for each in found]
    leases, commits = ([ms for each in found for ms in each[place]] for place in (2, 3))
    times = (f"{statistics.median(of):.1f}, {percentile(of, 0.99):.1f}" for of in (leases, commits))
    rate, ideal = sum(shards) / seconds, workers / attack_s
    doubled = sum(count > 1 for count in used.values())
    share = min(shards) / statistics.mean(shards)
    return row(workers, f"{rate:.1f}", f"{ideal:.1f}", f"{share:.2f}", *times, sum(lost.values()), doubled)


if __name__ == "__main__":
    main()
