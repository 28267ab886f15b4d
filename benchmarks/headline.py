"""How long it takes until a network withstands PGD-40 with 2 restarts on 84 % of 1,000 held-out images.

    python -m benchmarks.headline --data DIR [--rates 0.012 0.02] [--ramps 0.15 0.3] [--epochs 1 2] [--seeds 3]
        [--rows …] [--out FOLDER]

MNIST, the network of Wong et al., batches of 128, both cores of a small machine, nothing else running. Every row is
tuned by the same grid on training data, with seed 0: peak of the one-cycle rate, share of the run after which it is
reached and ε is 0.3, and length in epochs of 59,000 images, longer ones only where no shorter one holds the target. A
run leaves a checkpoint every 2 % of its steps; by bisection one is found that holds the target where the one before
does not, and its time is that of training up to there, with the checkpoints (of the asynchronous engine: from the start
of the first attack). A run whose target is not held at its end has no time. The point that is most robust at its end is
made again with the other seeds; the row's time is the median of those that hold, and every run is printed. Runs that
are in FOLDER already are not made again: take a new one for another machine.

Rows with EMA are judged by the moving average of their weights. `examples` are those that were trained on up to the
target. `over sync` of an asynchronous row: its examples over those of the synchronous loop with the same attack,
schedule and seed, which is what staleness costs, of the seeds where both hold. The grid is tuned on the same held-out
images that the target is measured on, in every row and with every seed alike.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import header, machine, row, spread
from sparring.attacks.gradient import attack_from
from sparring.config import AttackSettings, Config, from_tree
from sparring.engines.threads import cores
from sparring.evaluation.robustness import evaluate
from sparring.runs import Run
from sparring.trainer.checkpoints import AVERAGE, MODEL, load_weights
from sparring.trainer.parts import prepare
from sparring.training import train

Tree = dict[str, Any]
TARGET, HELD_OUT, BATCH, TRAINING = 0.84, 1000, 128, 59_000
JUDGE = AttackSettings(epsilon=0.3, steps=40, step_size=0.02, restarts=2)
FILE, CHECKPOINTS = "headline.json", 50

SYNC: Tree = {"engine": "sync"}
BULLETTRAIN: Tree = {"allocator": {"name": "bullettrain"}}
EMA: Tree = {"train": {"ema": 0.98}}  # about the last 50 steps, which the falling rate would average later
RAY: Tree = {  # two processes for two cores: the trainer attacks too
    "engine": "ray",
    "workers": {"count": cores() - 1},
    "staleness": {"depth": 1, "gap_every": 0, "trainer_attacks": "always"},
}
DDP: Tree = {
    "engine": "ddp",
    "ddp": {"ranks": cores()},
    "train": {"batch_size": BATCH // cores(), "shards_per_step": cores()},
}
ROWS: dict[str, Tree] = {
    "synchronous, κ = 40": {**SYNC, "attack": {"steps": 40}},
    "synchronous, κ = 8": SYNC,
    "synchronous, κ = 4": {**SYNC, "attack": {"steps": 4}},
    "synchronous, κ = 3": {**SYNC, "attack": {"steps": 3}},
    "synchronous, κ = 2": {**SYNC, "attack": {"steps": 2}},
    "synchronous, κ = 8, BulletTrain": {**SYNC, **BULLETTRAIN},
    "synchronous, κ = 4, BulletTrain": {**SYNC, **BULLETTRAIN, "attack": {"steps": 4}},
    "synchronous, κ = 4, EMA": {**SYNC, **EMA, "attack": {"steps": 4}},
    "synchronous, κ = 3, EMA": {**SYNC, **EMA, "attack": {"steps": 3}},
    "synchronous, FGSM-RS": {**SYNC, "attack": {"name": "fgsm-rs"}},
    "DDP on all cores, κ = 4": {**DDP, "attack": {"steps": 4}},
    "DDP on all cores, κ = 3": {**DDP, "attack": {"steps": 3}},
    "asynchronous, κ = 8": RAY,
    "asynchronous, κ = 8, BulletTrain": {**RAY, **BULLETTRAIN},
    "asynchronous, κ = 4": {**RAY, "attack": {"steps": 4}},
    "asynchronous, κ = 4, EMA": {**RAY, **EMA, "attack": {"steps": 4}},
}


@dataclass(frozen=True)
class Point:
    """Of the grid: the rate's peak, the share of the run over which rate and ε grow, and the run's length."""

    rate: float
    ramp: float
    epochs: int

    def __str__(self) -> str:
        return f"{self.rate:g}/{self.ramp:g}/{self.epochs}"


@dataclass(frozen=True)
class Outcome:
    """Of one run: training seconds and examples up to the target, None where it was not held; and its end."""

    seconds: float | None
    examples: int | None
    at_end: float
    whole_seconds: float

    def __str__(self) -> str:
        return f"{100 * self.at_end:.1f} % in {self.whole_seconds:.0f} s"


def config_of(name: str, point: Point, seed: int, data: Path, out: Path) -> Config:
    slug = "".join(sign if sign.isalnum() and sign.isascii() else "-" for sign in name.replace("κ = ", "k"))
    epochs = point.epochs
    tree: Tree = {
        "run": {"root": str(out), "name": f"{slug}-{str(point).replace('/', '-')}-seed{seed}"},
        "data": {"name": "mnist", "root": str(data), "holdout": HELD_OUT, "download": False},
        "model": {"name": "mnist-16-32-100"},
        "attack": {"epsilon": 0.3, "steps": 8, "warmup_epochs": point.ramp * epochs},
        "optimizer": {"lr": point.rate},
        "schedule": {"name": "one_cycle", "peak_at": point.ramp},
        "train": {"epochs": epochs, "batch_size": BATCH, "seed": seed},
        "checkpoint": {"every_steps": epochs * TRAINING // BATCH // CHECKPOINTS, "keep": 1000},
        "evaluation": {"steps": 1, "restarts": 1, "samples": 100},
        "metrics": {"every_steps": 1, "enabled": False},
    }
    for group, values in ROWS[name].items():
        tree[group] = {**tree.get(group, {}), **values} if isinstance(values, dict) else values
    return from_tree(tree)


def measured(config: Config) -> Outcome:
    """Train, and find a checkpoint that holds the target; what an earlier call has found is read.

    A run that an earlier call has not finished is made anew.
    """
    run = Run(config.run.root / str(config.run.name))
    found = run.read_json(FILE)
    if found is None:
        shutil.rmtree(run.path, ignore_errors=True)
        result = train(config)
        if result.phase != "finished":
            raise SystemExit(f"{run.path} was {result.phase}: what it has is no measurement")
        found = _outcome(result.run)
        run.write_json(FILE, found)
    return Outcome(**found)


def _outcome(run: Run) -> Tree:
    parts = prepare(run.config())
    attack = attack_from(JUDGE, JUDGE.epsilon)
    torch.set_num_threads(cores())
    paths = sorted(run.checkpoints.glob("step-*"))

    judged = MODEL if parts.config.train.ema is None else AVERAGE

    def accuracy(index: int) -> float:
        load_weights(paths[index], parts.model, judged)
        return evaluate(parts.model, parts.heldout, attack, samples=HELD_OUT).robust_accuracy

    lines = {line["step"]: line for line in map(json.loads, run.metrics.read_text().splitlines())}
    at_end, whole_s = accuracy(len(paths) - 1), float(lines[max(lines)]["seconds"])
    told: Tree = {"at_end": at_end, "whole_seconds": whole_s}
    if at_end < TARGET:
        return {**told, "seconds": None, "examples": None}
    low, high = -1, len(paths) - 1  # the target is held at `high`, and not at `low`
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if accuracy(middle) >= TARGET else (middle, high)
    line = lines[int(paths[high].name.removeprefix("step-"))]
    return {**told, "seconds": line["seconds"], "examples": line["examples"]}


def best(outcomes: dict[Point, Outcome]) -> Point:
    """The most robust at its end: what takes least time there is no longer than others, and holds with other seeds."""
    return max(outcomes, key=lambda point: outcomes[point].at_end)


@dataclass(frozen=True)
class Row:
    """The grid with the first seed, its best point, and the runs of all seeds there; `sync` are those of the
    synchronous loop with the same attack, where the row is not one of its own."""

    grid: dict[Point, Outcome]
    point: Point
    runs: list[Outcome]
    sync: list[Outcome]

    @property
    def times(self) -> list[float]:
        return [run.seconds for run in self.runs if run.seconds is not None]

    @property
    def seconds(self) -> float | None:
        """None where not more than half of the seeds hold the target."""
        return statistics.median(self.times) if 2 * len(self.times) > len(self.runs) else None

    def cells(self, slowest: float | None) -> list[str]:
        examples = [run.examples for run in self.runs if run.examples is not None]
        beside = zip(self.runs, self.sync, strict=False)
        ratios = [one.examples / other.examples for one, other in beside if one.examples and other.examples]
        return [
            str(self.point),
            f"{spread(self.times, '.0f')}; {len(self.times)} of {len(self.runs)}" if self.times else "not held",
            f"{slowest / self.seconds:.1f}" if slowest and self.seconds else "-",
            f"{statistics.median(examples):,.0f}" if examples else "-",
            f"{spread(ratios)}; {len(ratios)}" if ratios else "-",
            ", ".join(f"{100 * run.at_end:.1f}" for run in self.runs),
            "; ".join(f"{point}: {outcome}" for point, outcome in self.grid.items()),
        ]


def tuned(name: str, options: argparse.Namespace) -> Row:
    def measure(row: str, point: Point, seed: int) -> Outcome:
        return measured(config_of(row, point, seed, options.data, options.out))

    grid: dict[Point, Outcome] = {}
    for epochs in options.epochs:
        points = [Point(rate, ramp, epochs) for ramp in options.ramps for rate in options.rates]
        grid.update({point: measure(name, point, 0) for point in points})
        if any(outcome.seconds is not None for outcome in grid.values()):
            break
    point, synchronous = best(grid), name.replace("asynchronous", "synchronous")
    seeds = range(options.seeds) if grid[point].seconds is not None else range(1)
    runs = [measure(name, point, seed) for seed in seeds]
    beside = synchronous != name and synchronous in ROWS
    return Row(grid, point, runs, [measure(synchronous, point, seed) for seed in seeds] if beside else [])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rates", nargs="+", type=float, default=[0.012, 0.02])
    parser.add_argument("--ramps", nargs="+", type=float, default=[0.15, 0.3])
    parser.add_argument("--epochs", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--out", type=Path, default=Path("runs/headline"))
    options = parser.parse_args()
    print(f"{machine()}; rate/ramp/epochs; medians, least and greatest of the seeds\n")
    told = (
        "best",
        "seconds to the target; seeds",
        "over κ = 40",
        "examples",
        "over sync",
        "at the end, %",
        "grid, seed 0",
    )
    print(header("row", *told))
    slowest: float | None = None
    for name in options.rows:
        found = tuned(name, options)
        slowest = found.seconds if name == "synchronous, κ = 40" else slowest
        print(row(name, *found.cells(slowest)), flush=True)


if __name__ == "__main__":
    main()
