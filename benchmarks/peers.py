"""The asynchronous engine beside synchronous data parallelism, on as many devices and at as many examples a step.

    python -m benchmarks.peers [--devices 4] [--seconds 20] [--rounds 3] [--slow-down 4] [--cases equal slow …]

A device is a process whose passes are timed waits (benchmarks/waiting.py): 128 examples are attacked for 80 ms and
trained on for 10 ms, times --slow-down: what attack and step cost on the CPU (10 ms a shard) is no GPU's work, and all
ranks of a step do theirs at once, on the same few cores. `ddp` has a rank on each device, `ray` a trainer on one and
workers on the others; the trainer attacks in its spare time. Both train on DEVICES x 128 examples a step. Figures are
examples a second over those of the synchronous loop on one device, of the same round; each is measured from the moment
that all devices have worked.

    equal     all devices are alike (waits vary by 5 %)
    slow      one attacks and trains 3 times slower
    killed    one is killed after a third of the time (kill -9); examples are counted to the end of the time
    bullettrain  every example draws 10, 2 or 0 of 10 attack steps at the paper's fractions (.28 / .54 / .18), so that
              tickets take .39 of a full attack on average and differ by 9 % (one standard deviation)
    uneven    attacks take 0.1 to 1.9 times their mean, as where hosts are shared
    constant  four fifths of the time of 128 examples do not depend on their number, as of a small network on a large
              GPU: a step is of 128 examples, of which each of DDP's ranks takes its slice

`ray`'s weights weigh as much as ResNet-18's and travel in snapshots; `ddp` has next to none, since on GPUs the
all-reduce of their gradients takes place beside the backward pass: DDP is shown as if it cost nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.measure import header, in_a_fresh_process, machine, row, spread, write_images
from benchmarks.scaling import BOUND, EXAMPLES, START_TIMEOUT_S
from benchmarks.waiting import BATCH
from sparring.commands.train import train
from sparring.config import Config, from_tree
from sparring.errors import SparringError
from sparring.observe.state import RunState
from sparring.runs import Run

ATTACK_US, STEP_US, SETTLE_S = 80_000, 10_000, 3.0
CASES: dict[str, dict[str, str]] = {
    "equal": {},
    "slow": {},
    "killed": {},
    "bullettrain": {"WAITING_COUNTS": ".28:10,.54:2,.18:0"},
    "uneven": {"WAITING_JITTER": "0.9"},
    "constant": {"WAITING_CONSTANT": "0.8"},
}


@dataclass(frozen=True)
class Case:
    """One measurement."""

    name: str
    engine: str
    devices: int
    seconds: float
    folder: str
    slow_down: float = 4.0

    def wait_us(self, microseconds: int) -> int:
        return round(self.slow_down * microseconds)

    def config(self) -> Config:
        ddp, slices = self.engine == "ddp", self.name == "constant"
        batch = BATCH // self.devices if slices and ddp else BATCH
        return from_tree(
            {
                "engine": self.engine,
                "run": {"root": f"{self.folder}/runs"},
                "data": {"name": f"npz:{self.folder}/images"},
                "model": {"name": f"benchmarks.waiting:wait_{self.wait_us(ATTACK_US)}_{self.wait_us(STEP_US)}"},
                "attack": {"epsilon": 8 / 255, "steps": 1, "warmup_epochs": 0},
                "optimizer": {"name": "sgd", "lr": 1e-3},
                "train": {
                    "epochs": 2000,
                    "batch_size": batch,
                    "shards_per_step": 1 if slices and not ddp else self.devices,
                },
                "staleness": {"max_staleness": BOUND, "trainer_attacks": "always", "gap_every": 0},
                "ddp": {"ranks": self.devices},
                "workers": {"count": self.devices - 1, "threads": 1, "start_timeout_s": START_TIMEOUT_S},
                "trainer": {"threads": 1},
                "ray": {"object_store_mb": 1024},
                "queue": {"lease_s": 2.0},
                "checkpoint": {"every_steps": 10**9},
                "metrics": {"enabled": False},
            }
        )


class Window:
    """Watches a run: what happens to one of its devices, and how far it is at the window's begin and end."""

    def __init__(self, case: Case) -> None:
        self.case, self.run = case, Run(Path())
        self.began = 0.0
        self.seen: list[tuple[float, int]] = []  # time and examples
        self.struck = False
        self._limit = time.monotonic() + START_TIMEOUT_S

    def on_run(self, run: Run) -> None:
        self.run = run

    def show(self, state: RunState, workers: dict[str, dict[str, Any]]) -> None:
        now = time.monotonic()
        pids = self._pids(workers)
        if not self.began:
            if state.step > 1 and (self.case.engine == "sync" or len(pids) == self.case.devices - 1):
                if self.case.name == "slow" and pids:
                    (Path(os.environ["WAITING_SLOW"]) / str(pids[0])).touch()
                self.began = now + SETTLE_S
            elif now > self._limit:
                raise SystemExit(f"{self.case}: not all devices worked within {START_TIMEOUT_S:.0f} s")
            return
        if now < self.began:
            return
        self.seen.append((now, state.examples))
        if self.case.name == "killed" and not self.struck and now > self.began + self.case.seconds / 3 and pids:
            self.struck = True
            os.kill(pids[0], signal.SIGKILL)
        if now > self.began + self.case.seconds:
            self.run.request_stop()

    def _pids(self, workers: dict[str, dict[str, Any]]) -> list[int]:
        if self.case.engine == "ray":
            return [beat["pid"] for beat in workers.values() if beat["shards"] > 0]
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        return [pid for pid in map(int, children) if b"sparring.engines.ddp" in _command(pid)]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def measured(case: Case) -> dict[str, Any]:
    """Examples a second within the window; a run that ended early made none in the rest of it."""
    window, died = Window(case), ""
    try:
        train(case.config(), window.show, window.on_run)
    except SparringError as error:
        died = str(error)
    (first_s, first), (last_s, last) = window.seen[0], window.seen[-1]
    seconds = max(last_s - first_s, case.seconds) if died else last_s - first_s
    return {"examples_per_second": (last - first) / seconds, "died": died}


def apart(case: Case) -> dict[str, Any]:
    """The case measured in a fresh process."""
    environment = {**CASES[case.name], "WAITING_SLOW": tempfile.mkdtemp(dir=case.folder), "OMP_NUM_THREADS": "1"}
    if case.engine != "ray":
        environment["WAITING_NUMBERS"] = "60"
    reported: dict[str, Any] = in_a_fresh_process("benchmarks.peers", "--only", json.dumps(asdict(case)), **environment)
    return reported


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slow-down", type=float, default=4.0)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only is not None:
        sys.stdout.write(json.dumps(measured(Case(**json.loads(options.only)))) + "\n")
        return
    print(
        f"{machine()}; {options.devices} devices, waits x {options.slow_down:g}, {options.rounds} rounds of "
        f"{options.seconds:g} s\n"
    )
    print(header("case", "ddp", "ray", "ray over ddp", "what became of ddp"))
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder) / "images", EXAMPLES)
        for name in options.cases:
            speedups: dict[str, list[float]] = {"ddp": [], "ray": []}
            died = ""
            for _ in range(options.rounds):
                case = Case(name, "sync", options.devices, options.seconds, folder, options.slow_down)
                alone = apart(case)["examples_per_second"]
                for engine, found in speedups.items():
                    reported = apart(replace(case, engine=engine))
                    found.append(reported["examples_per_second"] / alone)
                    died = died or reported["died"]
            ratios = [ray / ddp for ray, ddp in zip(speedups["ray"], speedups["ddp"], strict=True)]
            cells = [spread(each) for each in (speedups["ddp"], speedups["ray"], ratios)]
            print(row(name, *cells, "the run ended" if died else "-"), flush=True)


if __name__ == "__main__":
    main()
