"""A run that is disturbed for twenty minutes:
python -m tests.chaos.soak RECIPE --out FOLDER [--minutes 20] [--GROUP.NAME VALUE]

Workers and the trainer are killed and paused, the Redis server is killed and comes back empty, at seeded times, each
kind as often as the table says. A fault counts only where it hit a living process. Then the run goes on to its end, and
its records are audited. Prints one JSON object: faults, violations, the summary's figures, and how the memory of the
processes grew: resident MiB of each life that lasted three minutes or more, after its first minute and at its end.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from sparring.config import load, overridden
from sparring.queue.server import EmbeddedServer
from sparring.runs import Run
from sparring.trainer.experiment import build_experiment
from tests.chaos.audit import lines_of, violations
from tests.chaos.with_ray import PASSWORD, Cluster, status_of
from tests.support.processes import has_ended
from tests.support.waiting import wait_for

MEMORY, DOWN_S, SETTLED_S, LONG_S = 512 << 20, 2.0, 60.0, 180.0
PATIENCE_S = 70.0  # until a process that is to be hit has been restarted; the longest back-off is 60 s
TIMES = {"worker killed": 52, "trainer killed": 6, "redis restarted": 4, "worker paused": 8, "trainer paused": 4}


class Soak:
    """One run, its driver and its server, and what was done to it."""

    def __init__(self, words: list[str], folder: Path, seed: int) -> None:
        self.drawn, self.happened = random.Random(seed), Counter[str]()
        self.server = EmbeddedServer(MEMORY)
        os.environ[PASSWORD] = self.server.password
        queue = ("--queue.redis_url", self.server.url, "--queue.password_env", PASSWORD)
        command = [sys.executable, "-m", "sparring", "train", *words, *queue]
        command += ["--run.root", str(folder), "--run.name", "soak"]
        self.output = folder / "output"
        with self.output.open("wb") as output:
            self.driver = subprocess.Popen(command, stdout=output, stderr=output)
        wait_for(
            "run folder", lambda: (folder / "soak" / "config.toml").exists() or has_ended(self.driver, folder), 120
        )
        self.run = Run(folder / "soak")
        self.cluster = Cluster(self.run, self.driver, self.server, self.drawn)
        self.memory: dict[str, list[tuple[float, float]]] = {}  # (seconds, MiB) by the process's name and id

    def disturb(self, minutes: float) -> None:
        """Faults in a random order, evenly over so many minutes, while the run goes on."""
        wait_for("the first steps", lambda: status_of(self.run)["step"] >= 20)
        names = [name for name, times in TIMES.items() for _ in range(times)]
        self.drawn.shuffle(names)
        for name in names:
            until = time.monotonic() + 60 * minutes / len(names) * self.drawn.uniform(0.5, 1.5)
            while time.monotonic() < until and self.driver.poll() is None:
                self._weigh()
                time.sleep(1)
            if self.driver.poll() is not None:
                return
            self.happened[name] += self._done(name)
            sys.stderr.write(f"step {status_of(self.run)['step']}: {name}\n")

    def end(self) -> int:
        """Wait for the end of the run; its exit code."""
        while self.driver.poll() is None:
            self._weigh()
            time.sleep(1)
        self.server.stop()
        return self.driver.returncode

    def growth(self) -> dict[str, dict[str, float]]:
        """Of each process that lived long: MiB once it had settled, and at the end."""
        found = {}
        for name, seen in self.memory.items():
            settled = [mib for at, mib in seen if at - seen[0][0] >= SETTLED_S]
            if seen[-1][0] - seen[0][0] >= LONG_S:
                lived = seen[-1][0] - seen[0][0]
                found[name] = {"seconds": lived, "settled_mib": settled[0], "end_mib": settled[-1]}
        return found

    def _done(self, name: str) -> int:
        if name == "redis restarted":
            self._restart_redis()
            return 1
        role, _, how = name.partition(" ")
        pid, limit = 0, time.monotonic() + PATIENCE_S
        while not pid and time.monotonic() < limit and status_of(self.run)["phase"] == "training":
            pid = _alive(self.cluster.worker if role == "worker" else self.cluster.trainer)
            time.sleep(0.2)
        if pid:
            (self.cluster.kill if how == "killed" else self.cluster.pause)(pid)
        return int(bool(pid))

    def _restart_redis(self) -> None:
        port, password = self.server.port, self.server.password
        self.server.stop()
        time.sleep(DOWN_S)
        self.server = EmbeddedServer(MEMORY, port=port, password=password)

    def _weigh(self) -> None:
        status = status_of(self.run)
        pids = {"driver": self.driver.pid, "trainer": int(status["trainer_pid"])}
        pids |= {name: int(fields.get("pid", 0)) for name, fields in status["workers"].items()}
        for name, pid in pids.items():
            if mib := _resident_mib(pid):
                self.memory.setdefault(f"{name} {pid}", []).append((time.monotonic(), mib))


def _alive(pid: int) -> int:
    return pid if _resident_mib(pid) else 0


def _resident_mib(pid: int) -> float:
    """0 where there is no such process."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description="Disturb one run, and audit it.")
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    options, words = parser.parse_known_args()
    changes = {name.removeprefix("--"): value for name, value in zip(words[::2], words[1::2], strict=True)}
    config = overridden(load(options.recipe), changes)
    options.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the driver ends too
    soak, began = Soak([str(options.recipe), *words], options.out, options.seed), time.monotonic()
    try:
        soak.disturb(options.minutes)
        disturbed_s, code = time.monotonic() - began, soak.end()
    finally:
        soak.driver.terminate()
    plan = build_experiment(config).plan
    tickets = [[len(plan.indices(epoch, n)) for n in range(plan.shards(epoch))] for epoch in range(plan.epochs)]
    found = violations(soak.run.path, tickets, config.staleness.max_staleness, finished=code == 0)
    result: dict[str, Any] = {
        "exit_code": code,
        "faults": dict(soak.happened),
        "violations": found,
        "disturbed_seconds": disturbed_s,
        "seconds": time.monotonic() - began,
        "lines": len(lines_of(soak.run.path / "steps.jsonl")),
        "memory": soak.growth(),
        "summary": json.loads((soak.run.path / "summary.json").read_text()),
    }
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
    sys.exit(0 if code == 0 and not found else 1)


if __name__ == "__main__":
    main()
