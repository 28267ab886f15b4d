"""What can happen to a run in one process: each fault is done to a `World`, in the trainer, before one of its steps."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import redis

from tests.chaos.world import LEASE_S, MEMORY, Killed, World

Fault = Callable[[World], None]


def worker_killed(world: World) -> None:
    """Its lease is lost; a worker of another name takes its place, as after a restart with another process."""
    _pause(world, 1, 4.0)


def workers_paused(world: World) -> None:
    """All of them outlast their leases and commit too late."""
    _pause(world, world.workers, 1.5)


def poison(world: World) -> None:
    """The attack on one ticket fails for ever."""
    epoch = world.random.randrange(len(world.tickets))
    world.poisoned.add((epoch, world.random.randrange(len(world.tickets[epoch]))))


def redis_emptied(world: World) -> None:
    with _server(world) as client:
        client.flushall()


def redis_restarted(world: World) -> None:
    """Killed, and back a little later: empty, on the same port."""
    server = world.server
    port, password = server.port, server.password
    server.stop()

    def back() -> None:
        world.ended.wait(0.3)
        world.server = world.clock.server(MEMORY, port=port, password=password)
        world.ended.wait()  # the kernel ends the server with the thread that started it

    threading.Thread(target=back, daemon=True).start()


def redis_full(world: World) -> None:
    """For longer than a lease."""
    with _server(world) as client:
        client.config_set("maxmemory", 1)

    def room() -> None:
        with _server(world) as client:
            client.config_set("maxmemory", MEMORY)

    threading.Timer(0.6, room).start()


def connections_cut(world: World) -> None:
    with _server(world) as client:
        client.client_kill_filter(_type="normal", skipme=True)


def clock_put_back(world: World) -> None:
    """That of the server, by an hour, while a worker does nothing for long: its lease would end in an hour."""
    _pause(world, 1, 10.0)
    world.clock.jump(-3600)


def clock_put_forward(world: World) -> None:
    """That of the server, by an hour: all leases have ended at once."""
    world.clock.jump(3600)


def garbage(world: World) -> None:
    """Somebody writes into every part of the queue."""
    transport = world.transport()
    key = transport._key
    with _server(world) as client:
        fence = (client.get(key("fence")) or b"").decode()
        client.zadd(key(f"ready:{fence}"), {"garbage": 0, "0:99999:0": 0})
        client.lpush(key("tickets"), "junk", f"{fence} 0:5:7 junk")
        client.hset(key("heartbeat"), "w9", b"1 \xc1")
        client.hset(key("returned"), "junk", "junk")
        client.zadd(key("leases"), {"junk": 0})
        client.set(key("state"), "[")
    transport.close()


def payloads_damaged(world: World) -> None:
    """A byte of every shard that lies in the queue."""
    with _server(world) as client:
        for name in client.scan_iter(match=f"{world.transport()._key('payload:')}*"):
            content = bytearray(client.get(name) or b"")
            if content:
                content[world.random.randrange(len(content))] ^= 1
                client.set(name, bytes(content), keepttl=True)


def trainer_killed(world: World) -> None:
    raise Killed


def redis_and_trainer_lost(world: World) -> None:
    """The queue is lost, and two steps later again, together with the trainer."""
    redis_emptied(world)
    world.then(2, [redis_emptied, trainer_killed])


def checkpoint_damaged(world: World) -> None:
    """A bit of the newest flips, and the trainer dies."""
    path = _newest(world)
    if path is not None and len(list(world.run.checkpoints.glob("step-*"))) > 1:
        file = path / world.random.choice(("model.safetensors", "state.pt", "progress.json"))
        content = bytearray(file.read_bytes())
        content[world.random.randrange(len(content))] ^= 1
        file.write_bytes(content)
    raise Killed


def killed_while_saving(world: World) -> None:
    """All is written and nothing is renamed yet."""
    path = _newest(world)
    if path is not None:
        partial = path.with_name(f".partial-1-{path.name}")
        shutil.rmtree(partial, ignore_errors=True)  # of an earlier life that died in the same way
        path.rename(partial)
    raise Killed


def lines_cut(world: World) -> None:
    """steps.jsonl and metrics.jsonl end in mid-line, and the trainer dies. What was cut is made again: the checkpoint
    is older than its last line."""
    for path in (world.run.history, world.run.metrics):
        if path.exists():
            with path.open("ab") as file:
                file.write(b'{"step": 1, "fen')
    raise Killed


FAULTS: dict[str, Fault] = {
    fault.__name__.replace("_", " "): fault
    for fault in (
        worker_killed,
        workers_paused,
        poison,
        redis_emptied,
        redis_restarted,
        redis_full,
        connections_cut,
        clock_put_back,
        clock_put_forward,
        garbage,
        payloads_damaged,
        trainer_killed,
        redis_and_trainer_lost,
        checkpoint_damaged,
        killed_while_saving,
        lines_cut,
    )
}


@contextmanager
def _server(world: World) -> Iterator[Any]:
    """A client of the server; nothing happens while another fault has stopped it."""
    with suppress(redis.RedisError), world.server.client() as client:
        yield client


def _pause(world: World, workers: int, leases: float) -> None:
    for number in range(workers):
        world.paused[f"w{number}"] = leases * LEASE_S


def _newest(world: World) -> Path | None:
    return max(world.run.checkpoints.glob("step-*"), default=None)
