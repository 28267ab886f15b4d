"""Many workers on one Redis: what a lease and a commit take, whether anything is lost, and whether all get their share.

    python -m benchmarks.load [--workers 64] [--seconds 60] [--attack-ms 1500] [--light N]
                              [--payload-servers 0 1 2 4 --pace 8]

--light N: shards of one pixel, and N workers in each process, for many workers: the tickets alone. --payload-servers:
the payloads are on so many servers of their own (queue.payload_urls), each behind a line of --pace MB/s each way; 0:
all is on one server, behind such a line.

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
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from math import inf
from typing import Any

import torch

from benchmarks.measure import header, machine, row
from benchmarks.paced import paced
from benchmarks.transport import SHAPE, shard_of
from sparring.config import QueueSettings
from sparring.queue.codec import payload_bytes
from sparring.queue.ledger import Ledger
from sparring.queue.messages import Key, Lease, Missing, Stop, Ticket
from sparring.queue.opening import QueueAddress
from sparring.queue.server import EmbeddedServer
from sparring.queue.transport import Transport

RUN, FENCE, LEASE_S, TIMEOUT_S, SECRET = "benchmark-load", 1, 15.0, 30.0, b"k" * 32
SETTLE_S = 5.0


@dataclass(frozen=True)
class Place:
    """Where the queue is, and the payloads if they are elsewhere."""

    address: QueueAddress
    settings: QueueSettings

    def transport(self) -> Transport:
        return self.address.transport(self.settings, RUN)


@contextmanager
def served(payload_servers: int | None, pace: float) -> Iterator[Place]:
    """Embedded servers; pace: bytes a second, where payload_servers is not None."""
    with ExitStack() as stack:

        def port_of(server: EmbeddedServer) -> int:
            return server.port if payload_servers is None else stack.enter_context(paced(server.port, pace))

        first = stack.enter_context(EmbeddedServer(maxmemory=1 << 30))
        others = [
            stack.enter_context(EmbeddedServer(maxmemory=1 << 30, password=first.password))
            for _ in range(payload_servers or 0)
        ]
        urls = [f"redis://127.0.0.1:{port_of(server)}/0" for server in others]
        url = first.url if others else f"redis://127.0.0.1:{port_of(first)}/0"
        settings = QueueSettings(lease_s=LEASE_S, timeout_s=TIMEOUT_S, payload_urls=tuple(urls))
        yield Place(QueueAddress(url, first.password, SECRET, first.password), settings)


def work_together(names: Sequence[str], *arguments: Any) -> None:
    """Some workers as threads of one process."""
    torch.set_num_threads(1)
    threads = [threading.Thread(target=work, args=(name, *arguments)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def work(name: str, place: Place, attack_s: float, light: bool, counted: tuple[float, float], told: Any) -> None:
    """A worker until it is stopped; tells its number of shards and its times, in ms, between two points in time."""
    side, beating, stopped = place.transport(), place.transport(), threading.Event()
    held, made = list[Lease](), shard_of(Key(0, 0, 0), FENCE)
    if light:
        made = replace(made, delta=made.delta[:1, :1, :1, :1], labels=made.labels[:1])
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
    parser.add_argument("--light", type=int, default=0)
    parser.add_argument("--payload-servers", type=int, nargs="*", default=[None])
    parser.add_argument("--pace", type=float, default=8.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(machine() + "\n")
    print(
        header(
            "workers",
            "payload servers",
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
        for servers in options.payload_servers:
            print(measured(workers, servers, options), flush=True)


def measured(workers: int, servers: int | None, options: argparse.Namespace) -> str:
    """A row of the table."""
    seconds, attack_s, pace = options.seconds, options.attack_ms / 1000, options.pace * 1e6
    context = multiprocessing.get_context("fork")  # they share what is imported
    told: Any = context.Queue()
    with served(servers, pace) as place:
        side = place.transport()
        side.open(FENCE)
        settle_s = max(SETTLE_S, 2 * attack_s)
        counted = time.time() + settle_s, time.time() + settle_s + seconds
        names = [f"w{number}" for number in range(workers)]
        each = options.light or 1
        processes = [
            context.Process(
                target=work_together,
                args=(names[first : first + each], place, attack_s, bool(options.light), counted, told),
            )
            for first in range(0, workers, each)
        ]
        for process in processes:
            process.start()
        used, lost = consume(side, workers, settle_s + seconds)
        side.request_stop()
        found = [told.get(timeout=60) for _ in names]
        for process in processes:
            process.join(timeout=30)
        side.close()
    shards = [each[1] for each in found]
    leases, commits = ([ms for each in found for ms in each[place]] for place in (2, 3))
    times = (f"{statistics.median(of):.1f}, {percentile(of, 0.99):.1f}" if of else "–" for of in (leases, commits))
    rate, ideal = sum(shards) / seconds, workers / attack_s if attack_s else inf
    if servers is not None:
        ideal = min(ideal, max(servers, 1) * pace / payload_bytes(SHAPE[0], SHAPE[1:], "int8", "linf"))
    doubled = sum(count > 1 for count in used.values())
    share = min(shards) / statistics.mean(shards)
    where = "–" if servers is None else servers
    return row(workers, where, f"{rate:.1f}", f"{ideal:.1f}", f"{share:.2f}", *times, sum(lost.values()), doubled)


if __name__ == "__main__":
    main()
