"""Speed-up over the synchronous loop by the number of workers, the GPU's work being a timed wait and all else real.

    python -m benchmarks.scaling --out FOLDER [--series 80 320 exchange refresh] [--workers 1 2 4 8 16 32] [--rounds 3]
        [--trainers 1] [--trainer-attacks always] [--cores-per-host 4]

A shard is 128 examples of 3 x 32 x 32; its attack takes 80 ms (series 320: 320 ms) and its step 10 ms on a device
that each process has to itself; snapshots are 11 M weights (44 MB), published after every step. Ray actors, Redis,
codec, snapshots, ledger and the trainer's loop are those of every run: only the network waits (benchmarks/waiting.py).
What the attack's and the step's own arithmetic take on this CPU, in the synchronous loop alone, is part of those times:
it is measured first and taken off the waits, since on a GPU it belongs to the passes.

This machine's cores do the work of W + R hosts (R: --trainers). As if each host had --cores-per-host of its own, all
times of a row are F times as long, F = cores per host · (W + R) / cores, at least 1. That does not spread out what
comes at once: when weights are published, all workers load them and begin to attack, just when the trainer puts its
next step together.

The ideal is min(W + R, R · (1 + attack / step)): trainers attack where they would wait. Several of them really sum up
the 44 MB of the network after each step, by gloo on this machine, whose share of a step is F times smaller than it
would be beside the true times. Steps are large enough, and permits
few enough, for a mean staleness of 2. Every row is measured right after the synchronous loop at the same F, each in a
fresh process; the table shows medians over the rounds and the least and greatest. A row counts from the moment that
all workers have made shards. Where the synchronous loop itself takes 3 % more or less than it should, the row's
baseline is marked: something else ran on the machine. `cores` is how busy the machine was meanwhile; where they are
full (from 90 % on) the row tells of them and not of the design.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import in_a_fresh_process, machine, write_images
from benchmarks.scaling_report import plot, table
from benchmarks.waiting import BATCH
from sparring.commands.train import train
from sparring.config import Config, from_tree
from sparring.machine.threads import cores
from sparring.observe.state import RunState, staleness_summary
from sparring.queue.messages import Controls, Key
from sparring.runs import Run
from sparring.trainer.experiment import build_experiment
from sparring.trainer.learner import Learner
from sparring.workers.generator import produce
from sparring.workers.task import Task

STEP_MS, BOUND, EXAMPLES, ATTACK_STEPS = 10.0, 4, 8192, 8
START_TIMEOUT_S, SETTLE_S, LEAST_STEPS = 600.0, 3.0, 8
SATURATED = 8  # workers, from which on the series with few shards a step are measured
Told = dict[str, Any]
SHARDS_PER_STEP_AND_DEPTH = {
    1: (2, 3),
    2: (2, 3),
    4: (4, 3),
    8: (8, 2),
    14: (16, 2),
    16: (16, 2),
    28: (32, 2),
    32: (32, 2),
}


@dataclass(frozen=True)
class Series:
    """`attack_ms` of a shard in `attack_steps`; `of_step`: shards a step and depth, whatever the number of workers."""

    attack_ms: float
    attack_steps: int = 1
    exchange: bool = False
    refresh: int = 0
    of_step: tuple[int, int] | None = None
    bound: int = BOUND
    finish: int | str = "off"  # depth has no meaning with a fresh finish

    def sizes(self, workers: int) -> tuple[int, int]:
        """Shards a step, and depth."""
        return self.of_step or SHARDS_PER_STEP_AND_DEPTH[workers]

    def ideal(self, workers: int, trainers: int) -> float:
        """Speed-up over the synchronous loop that nothing can exceed; refreshing makes steps longer."""
        step_ms = STEP_MS + self.refresh * self.attack_ms / self.attack_steps
        of_a_trainer = min(1 + self.attack_ms / STEP_MS, (self.attack_ms + STEP_MS) / step_ms)
        return min(workers + trainers, trainers * of_a_trainer)


SERIES = {
    "80": Series(80.0),
    "320": Series(320.0),
    "exchange": Series(80.0, ATTACK_STEPS, exchange=True, of_step=(1, 3), bound=6),
    "refresh": Series(80.0, ATTACK_STEPS, exchange=True, refresh=1, of_step=(8, 2)),
    "finish": Series(80.0, ATTACK_STEPS, finish=6, of_step=(8, 0)),
}


@dataclass(frozen=True)
class Row:
    """One measurement: the synchronous loop where there are no workers."""

    series: str
    workers: int
    waits_us: tuple[int, int]
    seconds: float
    folder: str
    slow_down: float = 1.0
    trainers: int = 1
    attacks: str = "always"

    def config(self) -> Config:
        series, alone = SERIES[self.series], self.workers == 0
        of_step, depth = (1, 0) if alone else series.sizes(self.workers)
        return from_tree(
            {
                "engine": "sync" if alone else "ray",
                "run": {"root": f"{self.folder}/runs"},
                "data": {"name": f"npz:{self.folder}/images"},
                "model": {"name": f"benchmarks.waiting:wait_{self.waits_us[0]}_{self.waits_us[1]}"},
                "attack": {"epsilon": 8 / 255, "steps": series.attack_steps, "warmup_epochs": 0},
                "optimizer": {"name": "sgd", "lr": 1e-3},
                "train": {"epochs": 2000, "batch_size": BATCH, "shards_per_step": of_step},
                "staleness": {
                    "max_staleness": series.bound,
                    "depth": depth if series.finish == "off" else None,
                    "finish": "off" if alone else series.finish,
                    "exchange": series.exchange,
                    "refresh": 0 if alone else series.refresh,
                    "trainer_attacks": self.attacks,
                    "gap_every": 0,
                },
                "workers": {"count": self.workers, "threads": 1, "start_timeout_s": START_TIMEOUT_S},
                "trainer": {"threads": 1, "count": self.trainers},
                "ray": {"object_store_mb": 1024},
                "checkpoint": {"every_steps": 10**9},
                "metrics": {"every_steps": 1, "enabled": False},
            }
        )


def arithmetic_s(row: Row) -> tuple[float, float]:
    """Processor seconds of a shard's attack and its step without any wait, one thread: medians."""
    torch.set_num_threads(1)
    experiment = build_experiment(row.config())
    learner = Learner(experiment, torch.device("cpu"))
    took: list[tuple[float, float]] = []
    for number in range(40):
        task = Task(Key(0, number, 0), experiment.plan.indices(0, number))
        began = time.process_time()
        shard = produce(task, learner.context, Controls(8 / 255), learner.step)
        attacked = time.process_time()
        learner.learn(learner.batch([shard]), epoch=0)
        took.append((attacked - began, time.process_time() - attacked))
    attacks, steps = zip(*took[10:], strict=True)
    return statistics.median(attacks), statistics.median(steps)


class Window:
    """Lets a run go on for `seconds` after all its workers have made shards, then stops it."""

    def __init__(self, row: Row) -> None:
        self.row, self.run = row, Run(Path())
        self.began = self.ended = 0.0
        self._limit = time.monotonic() + START_TIMEOUT_S
        self._cores: tuple[float, float] = (0.0, 0.0)
        self.cores_busy = 0.0

    def on_run(self, run: Run) -> None:
        self.run = run

    def show(self, state: RunState, workers: dict[str, dict[str, Any]]) -> None:
        served = [beat for beat in workers.values() if beat["shards"] > 0]
        now = time.time()
        if not self.began and state.step > 1 and len(served) == self.row.workers:
            self.began, self._cores = now + SETTLE_S, _core_seconds()
        if self.began and not self.ended and now > self.began + self.row.seconds:
            self.ended = now
            busy, total = (after - before for after, before in zip(_core_seconds(), self._cores, strict=True))
            self.cores_busy = busy / total
            self.run.request_stop()
        if not self.began and time.monotonic() > self._limit:
            self.run.request_stop()


def measured(row: Row) -> Told:
    """Shards a second, staleness, drops and where the trainer's time went, within the window."""
    window = Window(row)
    result = train(row.config(), window.show, window.on_run)
    if not window.ended:
        raise SystemExit(f"{row}: not all workers served within {START_TIMEOUT_S:.0f} s; see {result.run.path}/logs")
    lines = [json.loads(line) for line in result.run.metrics.read_text().splitlines()]
    inside = [line for line in lines if window.began <= line["time"] <= window.ended]
    first, last = inside[0], inside[-1]
    seconds = last["time"] - first["time"]

    def gained(name: str) -> float:
        return float(last[name] - first[name])

    stale = {int(age): count - first["staleness"].get(age, 0) for age, count in last["staleness"].items()}
    mean, highest = staleness_summary({str(age): count for age, count in stale.items()})
    shards, own, series = gained("examples") / BATCH, gained("trainer_shards"), SERIES[row.series]
    step_ms = STEP_MS + series.refresh * series.attack_ms / series.attack_steps
    waited = sum(last["wait_seconds"].values()) - sum(first["wait_seconds"].values())
    return {
        "shards_per_second": shards / seconds,
        "staleness_mean": mean,
        "staleness_max": highest,
        "dropped": sum(last["dropped"].values()) - sum(first["dropped"].values()),
        "own_share": own / shards,
        "device_busy": row.slow_down * (shards * step_ms + own * series.attack_ms) / 1000 / seconds / row.trainers,
        "waited": waited / seconds,
        "publish_ms": 1000 * gained("publish_seconds") / max(1.0, gained("publications")),
        "step_ms": 1000 * gained("step_seconds") / shards,
        "cores_busy": window.cores_busy,
        "steps": len(inside) - 1,
        "seconds": seconds,
    }


def _core_seconds() -> tuple[float, float]:
    """Ticks that the cores were busy, and all ticks, since the machine was started."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    idle = ticks[3] + ticks[4]
    return float(sum(ticks) - idle), float(sum(ticks))


def apart(what: str, row: Row, **environment: str) -> Any:
    """One row, or the arithmetic of its series, measured in a fresh process."""
    reported = json.dumps({"what": what, **asdict(row)})
    return in_a_fresh_process("benchmarks.scaling", "--only", reported, **environment)


def arithmetic_of(name: str, folder: str) -> tuple[float, float]:
    """See `arithmetic_s`, in a fresh process; said too."""
    attack_s, step_s = apart("arithmetic", Row(name, 0, (0, 0), 0.0, folder))
    print(f"series {name}: of the attack {1000 * attack_s:.1f} ms, of the step {1000 * step_s:.1f} ms are arithmetic")
    return attack_s, step_s


def waits_us(name: str, arithmetic: tuple[float, float], slow_down: float) -> tuple[int, int]:
    """Waits of an attack step and of a training step: what is wanted less what this CPU's own arithmetic takes."""
    series, (attack_s, step_s) = SERIES[name], arithmetic
    left = (
        (slow_down * series.attack_ms / 1000 - attack_s) / series.attack_steps,
        slow_down * STEP_MS / 1000 - step_s,
    )
    if min(left) <= 0:
        raise SystemExit("this CPU's arithmetic alone takes longer than the times wanted; raise --cores-per-host")
    return round(1e6 * left[0]), round(1e6 * left[1])


def slowed(cores_per_host: float, hosts: int) -> float:
    """How many times as long everything takes, that this machine's cores are as many as all hosts' would be."""
    return max(1.0, cores_per_host * hosts / cores())


def beside_the_loop(name: str, workers: int, arithmetic: tuple[float, float], folder: str, options: Any) -> Told:
    """One row, and the synchronous loop at the same times right before it."""
    series, trainers = SERIES[name], options.trainers
    slow_down = slowed(options.cores_per_host, workers + trainers)
    sync_s, ideal = slow_down * (series.attack_ms + STEP_MS) / 1000, series.ideal(workers, trainers)
    of_step, depth = series.sizes(workers)
    waits = waits_us(name, arithmetic, slow_down)

    def row(count: int, steps_s: float, ranks: int = 1) -> Row:
        seconds = max(options.seconds, LEAST_STEPS * steps_s)
        return Row(name, count, waits, seconds, folder, slow_down, ranks, options.trainer_attacks)

    alone = apart("run", row(0, sync_s), WAITING_JITTER="0")  # nobody marches in step with it
    reported, rate = apart("run", row(workers, of_step * sync_s / ideal, trainers)), alone["shards_per_second"]
    speedup = reported["shards_per_second"] / rate
    return {
        "series": name,
        "workers": workers,
        "trainers": trainers,
        "slow_down": slow_down,
        "shards_per_step": of_step,
        "depth": depth,
        "sync_ms": 1000 / rate,
        "sync_ms_wanted": 1000 * sync_s,
        "speedup": speedup,
        "ideal": ideal,
        "saturated": workers >= trainers * series.attack_ms / STEP_MS,
        "efficiency": speedup / ideal,
        **reported,
    }


def rounds_of(options: argparse.Namespace, folder: str, save: Callable[[Told], None]) -> None:
    """All rows, round after round."""
    arithmetic = {name: arithmetic_of(name, folder) for name in options.series}
    for turn in range(options.rounds):
        for name in options.series:
            for workers in options.workers:
                if SERIES[name].of_step is not None and workers < SATURATED:
                    continue
                reported = beside_the_loop(name, workers, arithmetic[name], folder, options)
                save({"round": turn, **reported})
                print(
                    f"round {turn + 1}, series {name}, {workers} workers, F = {reported['slow_down']:g}: "
                    f"{reported['speedup']:.2f} of {reported['ideal']:.0f}",
                    flush=True,
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/scaling"))
    parser.add_argument("--series", nargs="+", choices=SERIES, default=list(SERIES))
    parser.add_argument(
        "--workers", nargs="+", type=int, choices=SHARDS_PER_STEP_AND_DEPTH, default=[1, 2, 4, 8, 16, 32]
    )
    parser.add_argument("--trainers", type=int, default=1, help="trainers in parallel, of every row")
    parser.add_argument("--trainer-attacks", choices=["always", "never"], default="always")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=30.0, help=f"least of a measurement, and {LEAST_STEPS} steps")
    parser.add_argument("--cores-per-host", type=float, default=4.0)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only is not None:
        asked = json.loads(options.only)
        what, row = asked.pop("what"), Row(**{**asked, "waits_us": tuple(asked["waits_us"])})
        sys.stdout.write(json.dumps(arithmetic_s(row) if what == "arithmetic" else measured(row)) + "\n")
        return
    options.out.mkdir(parents=True, exist_ok=True)
    reported = f"{machine()}; as if each host had {options.cores_per_host:g} cores"
    print(reported)
    rows: list[Told] = []

    def save(row: Told) -> None:
        rows.append(row)
        (options.out / "scaling.json").write_text(json.dumps({"machine": reported, "rows": rows}, indent=2))

    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder) / "images", EXAMPLES)
        rounds_of(options, folder, save)
    print(table(rows))
    plot(rows, options.out / "scaling.png")


if __name__ == "__main__":
    main()
