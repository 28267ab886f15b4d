"""Schedules of faults against real runs: Ray's processes are killed and paused, Redis is lost, and it goes on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from sparring.commands.control import read_status
from sparring.commands.replay import replay
from sparring.errors import SparringError
from sparring.queue.server import EmbeddedServer
from sparring.runs import Run
from sparring.trainer.experiment import build_experiment
from tests.chaos.audit import violations
from tests.chaos.schedules import Outcome
from tests.support.processes import running
from tests.support.runs import small

MEMORY = 128 << 20
PASSWORD, SECRET = "SPARRING_CHAOS_PASSWORD", "of-all-servers-of-this-schedule"
LEASE_S, STEP_TIMEOUT_S, END_TIMEOUT_S, MOST_LIVES = 3.0, 120.0, 240.0, 6


@dataclass
class Cluster:
    """A run, the process of its driver, its server, and those of its payloads where it has any."""

    run: Run
    driver: subprocess.Popen[bytes]
    server: EmbeddedServer
    random: random.Random
    payload_servers: tuple[EmbeddedServer, ...] = ()

    def kill(self, pid: int, number: int = signal.SIGKILL) -> None:
        with suppress(ProcessLookupError):
            if pid:
                os.kill(pid, number)

    def pause(self, pid: int) -> None:
        """For longer than a lease."""
        self.kill(pid, signal.SIGSTOP)
        threading.Timer(2 * LEASE_S, self.kill, (pid, signal.SIGCONT)).start()

    @property
    def worker(self) -> int:
        pids = [int(fields.get("pid", 0)) for fields in status_of(self.run)["workers"].values()]
        return self.random.choice(pids) if pids else 0

    @property
    def trainer(self) -> int:
        return int(status_of(self.run)["trainer_pid"])


def worker_killed(cluster: Cluster) -> None:
    cluster.kill(cluster.worker)


def worker_paused(cluster: Cluster) -> None:
    cluster.pause(cluster.worker)


def trainer_killed(cluster: Cluster) -> None:
    cluster.kill(cluster.trainer)


def trainer_paused(cluster: Cluster) -> None:
    cluster.pause(cluster.trainer)


def driver_killed(cluster: Cluster) -> None:
    cluster.kill(cluster.driver.pid)


def driver_terminated(cluster: Cluster) -> None:
    """As a host that is taken away does: the checkpoint must be written."""
    cluster.kill(cluster.driver.pid, signal.SIGTERM)


def redis_emptied(cluster: Cluster) -> None:
    with _client(cluster) as client:
        client.flushall()


def redis_full(cluster: Cluster) -> None:
    with _client(cluster) as client:
        client.config_set("maxmemory", 1)

    def room() -> None:
        with _client(cluster) as client:
            client.config_set("maxmemory", MEMORY)

    threading.Timer(2 * LEASE_S, room).start()


def connections_cut(cluster: Cluster) -> None:
    with _client(cluster) as client:
        client.client_kill_filter(_type="normal", skipme=True)


def payload_server_killed(cluster: Cluster) -> None:
    """One of two, where there are any."""
    for server in cluster.payload_servers[:1]:
        cluster.kill(server.pid)


def redis_and_trainer_lost(cluster: Cluster) -> None:
    redis_emptied(cluster)
    trainer_killed(cluster)


FAULTS: dict[str, Callable[[Cluster], None]] = {
    fault.__name__.replace("_", " "): fault
    for fault in (
        worker_killed,
        worker_paused,
        trainer_killed,
        trainer_paused,
        driver_killed,
        driver_terminated,
        redis_emptied,
        redis_full,
        connections_cut,
        payload_server_killed,
        redis_and_trainer_lost,
    )
}


def run_with_ray(seed: int, root: Path) -> Outcome:
    """Make the run of one schedule with Ray, resume it until it has finished, and audit it."""
    drawn, folder = random.Random(seed), root / f"ray-{seed}"
    folder.mkdir(parents=True)
    with ExitStack() as stack:
        server, *others = (
            stack.enter_context(EmbeddedServer(maxmemory=MEMORY, password=SECRET)) for _ in range(drawn.choice((1, 3)))
        )
        os.environ[PASSWORD] = SECRET
        config = small(folder, **_recipe([each.url for each in (server, *others)], drawn))
        happened: list[tuple[str, float]] = []
        with running(config, folder) as (run, driver):
            cluster = Cluster(run, driver, server, drawn, tuple(others))
            for step, name in _schedule(drawn):
                if not _reaches(cluster, step):
                    break
                FAULTS[name](cluster)
                happened.append((name, _next_step_after(cluster)))
            code = driver.wait(timeout=END_TIMEOUT_S)
        lives = 1
        while code != 0 and lives < MOST_LIVES:
            lives += 1
            code = _resume(run, folder)
    plan = build_experiment(config).plan
    tickets = [[len(plan.indices(epoch, n)) for n in range(plan.shards(epoch))] for epoch in range(plan.epochs)]
    phase = str(status_of(run)["phase"])
    found = violations(run.path, tickets, config.staleness.max_staleness, finished=code == 0)
    if code == 0 and not replay(run.path).same:
        found.append("its recorded steps, made again, end in other weights")
    return Outcome(seed, phase, lives, found, happened)


def status_of(run: Run) -> dict[str, Any]:
    """The status; while nobody can tell it, that of a run that has not begun."""
    try:
        return read_status(run)
    except SparringError:
        return {"step": 0, "phase": "unknown", "trainer_pid": 0, "workers": {}}


def _recipe(urls: list[str], drawn: random.Random) -> dict[str, Any]:
    return {
        "data": {"limit": 400},
        "train": {"epochs": 2, "max_steps": None, "batch_size": 50},
        "attack": {"steps": 20},
        "workers": {"count": 2},
        "staleness": {"trainer_attacks": drawn.choice(("never", "always"))},
        "checkpoint": {"every_steps": 3},
        "queue": {
            "redis_url": urls[0],
            "payload_urls": urls[1:],
            "password_env": PASSWORD,
            "lease_s": LEASE_S,
            "timeout_s": 20.0,
        },
        "trainer": {"wait_timeout_s": 90.0},
    }


def _schedule(drawn: random.Random) -> list[tuple[int, str]]:
    """Steps and faults; in half of the schedules the first two happen at once."""
    names = [drawn.choice(list(FAULTS)) for _ in range(drawn.choice((2, 3)))]
    steps = sorted(drawn.randrange(1, 12) for _ in names)
    if drawn.random() < 0.5:
        steps[1] = steps[0]
    return list(zip(steps, names, strict=True))


def _reaches(cluster: Cluster, step: int) -> bool:
    limit = time.monotonic() + STEP_TIMEOUT_S
    while time.monotonic() < limit and cluster.driver.poll() is None:
        if status_of(cluster.run)["step"] >= step:
            return True
        time.sleep(0.1)
    return False


def _next_step_after(cluster: Cluster) -> float:
    """Seconds until the run has gone on by a step, or has ended."""
    began, step = time.monotonic(), status_of(cluster.run)["step"]
    _reaches(cluster, step + 1)
    return time.monotonic() - began


def _resume(run: Run, folder: Path) -> int:
    with (folder / "output").open("ab") as output:
        words = [sys.executable, "-m", "sparring", "resume", str(run.path)]
        return subprocess.run(words, stdout=output, stderr=output, timeout=END_TIMEOUT_S).returncode


@contextmanager
def _client(cluster: Cluster) -> Iterator[Any]:
    with suppress(redis.RedisError), cluster.server.client() as client:
        yield client
