"""How long it takes until a network withstands PGD-40 with 2 restarts on 84 % of 1,000 held-out images.

    python -m benchmarks.headline --data DIR [--rates 0.012 0.02] [--ramps 0.15 0.3] [--epochs 1 2] [--seeds 3]
        [--rows …] [--out FOLDER]

MNIST, the network of Wong et al., batches of 128, both cores of a small machine, nothing else running. Every row is
tuned by the same grid on training data, with seed 0: peak of the one-cycle rate, share of the run after which it is
reached and ε is 0.3, and length in epochs of 59,000 images, longer ones only where no shorter one holds the target. A
run leaves a checkpoint every 2 % of its steps; by bisection one is found that holds the target where the one before
does not, and its time is that of training up to there, with the checkpoints (of the asynchronous engine: from the start
of the first attack). A run whose target is not held at its end has no time. The point that is most robust at its end is
made again with every seed, for one seed after the other all rows back to back, since the machine's own speed drifts;
only these runs count. What is in FOLDER already is not made again, but where one row of a seed is missing all of them
are: take a new one for another machine.

Rows with EMA use the moving average of their weights. `over κ = 40` is of the same seed, where both hold; in
brackets the least and greatest, and beside it the same of `passes`, forward and backward through the network for attack
and training up to the target (BulletTrain's classifying forward passes are not in them), which no machine disturbs.
`over sync` of an asynchronous row: its examples over those of the synchronous loop with the same attack, schedule and
seed, which is what staleness costs. The grid is tuned on the same held-out images that the target is measured on, in
every row and with every seed alike.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import header, machine, row, spread
from sparring.attacks import PGD
from sparring.commands.train import train
from sparring.config import Config, config_of, from_tree
from sparring.evaluation.robustness import evaluate
from sparring.machine.threads import cores
from sparring.runs import Run
from sparring.trainer.checkpoints import AVERAGE, MODEL, load_weights
from sparring.trainer.experiment import build_experiment

Tree = dict[str, Any]
TARGET, HELD_OUT, BATCH, TRAINING = 0.84, 1000, 128, 59_000
EVALUATED_BY = PGD(0.3, steps=40, step_size=0.02, restarts=2)
FILE, DONE, CHECKPOINTS = "headline.json", "trained.json", 50

COLUMNS = (
    "best",
    "seconds to the target; seeds",
    "over κ = 40",
    "in passes",
    "examples",
    "over sync",
    "at the end, %",
    "grid, seed 0",
)
SYNC: Tree = {"engine": "sync"}
BULLETTRAIN: Tree = {"allocator": {"name": "bullettrain"}}
EMA: Tree = {"train": {"ema": 0.98}}  # about the last 50 steps, which the falling rate would average later
SHARDS = 4
RAY: Tree = {  # a process for each core: the trainer attacks too. Small shards of which a step takes several age less
    "engine": "ray",
    "workers": {"count": cores() - 1},
    "staleness": {"depth": 1, "gap_every": 0, "trainer_attacks": "always"},
    "train": {"batch_size": BATCH // SHARDS, "shards_per_step": SHARDS},
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
    "asynchronous, κ = 4, EMA": {**RAY, "train": {**RAY["train"], **EMA["train"]}, "attack": {"steps": 4}},
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
    """Of one run: training seconds, examples and passes up to the target, None where it was not held; and its end."""

    seconds: float | None
    examples: int | None
    passes: int | None
    at_end: float
    whole_seconds: float

    def __str__(self) -> str:
        return f"{100 * self.at_end:.1f} % in {self.whole_seconds:.0f} s"


def settings_of(name: str, point: Point, seed: int, data: Path, out: Path) -> Config:
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


def run_of(config: Config) -> Run:
    return Run(config.run.root / str(config.run.name))


def is_trained(config: Config) -> bool:
    return run_of(config).read_json(DONE) is not None


def trained(config: Config) -> Run:
    """A finished run of it; that of an earlier call, where there is one. One that was left unfinished is made anew."""
    run = run_of(config)
    if not is_trained(config):
        shutil.rmtree(run.path, ignore_errors=True)
        result = train(config)
        if result.phase != "finished":
            raise SystemExit(f"{run.path} was {result.phase}: what it has is no measurement")
        run.write_json(DONE, True)
    return run


def measured(config: Config) -> Outcome:
    """Train, and find a checkpoint that holds the target; what an earlier call has found is read."""
    run = trained(config)
    found = run.read_json(FILE)
    if found is None or found.keys() != Outcome.__annotations__.keys():
        found = _outcome(run)
        run.write_json(FILE, found)
    return Outcome(**found)


def _outcome(run: Run) -> Tree:
    experiment = build_experiment(config_of(run))
    torch.set_num_threads(cores())
    paths = sorted(run.checkpoints.glob("step-*"))
    evaluated = MODEL if experiment.config.train.ema is None else AVERAGE

    def accuracy(index: int) -> float:
        load_weights(paths[index], experiment.model, evaluated)
        return evaluate(experiment.model, experiment.heldout, EVALUATED_BY, samples=HELD_OUT).robust_accuracy

    lines = {line["step"]: line for line in map(json.loads, run.metrics.read_text().splitlines())}
    at_end, whole_s = accuracy(len(paths) - 1), float(lines[max(lines)]["seconds"])
    reported: Tree = {"at_end": at_end, "whole_seconds": whole_s}
    if at_end < TARGET:
        return {**reported, "seconds": None, "examples": None, "passes": None}
    low, high = -1, len(paths) - 1  # the target is held at `high`, and not at `low`
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if accuracy(middle) >= TARGET else (middle, high)
    line = lines[int(paths[high].name.removeprefix("step-"))]
    passes = line["gradients"] + line["examples"]
    return {**reported, "seconds": line["seconds"], "examples": line["examples"], "passes": passes}


def best(outcomes: dict[Point, Outcome]) -> Point:
    """The most robust at its end, which is the likeliest to hold the target with other seeds too."""
    return max(outcomes, key=lambda point: outcomes[point].at_end)


@dataclass(frozen=True)
class Bench:
    """Where its runs are, and of what data."""

    data: Path
    out: Path

    def tune(self, name: str, rates: list[float], ramps: list[float], lengths: list[int]) -> dict[Point, Outcome]:
        """The grid of one row with seed 0: the shortest length, and longer ones until the target is held."""
        grid: dict[Point, Outcome] = {}
        for epochs in lengths:
            points = [Point(rate, ramp, epochs) for ramp in ramps for rate in rates]
            grid |= {point: measured(settings_of(name, point, 0, self.data, self.out / "grid")) for point in points}
            if any(outcome.seconds is not None for outcome in grid.values()):
                break
        return grid

    def back_to_back(self, points: dict[str, Point], seed: int) -> dict[str, Outcome]:
        """A run of every row, trained one right after the other and then evaluated; where one is missing, all anew."""
        configs = {name: settings_of(name, point, seed, self.data, self.out) for name, point in points.items()}
        if not all(is_trained(config) for config in configs.values()):
            for config in configs.values():
                shutil.rmtree(run_of(config).path, ignore_errors=True)
                trained(config)
        return {name: measured(config) for name, config in configs.items()}

    def synchronous(self, name: str, point: Point, seed: int) -> Outcome | None:
        """What the synchronous loop comes to where an asynchronous row is; None for other rows."""
        beside = name.replace("asynchronous", "synchronous")
        if beside == name or beside not in ROWS:
            return None
        return measured(settings_of(beside, point, seed, self.data, self.out / "beside"))


def ratios(over: Sequence[Outcome | None], under: Sequence[Outcome | None], what: str) -> str:
    """Of one figure, seed by seed where both hold the target: median, least and greatest, and of how many seeds."""
    found = [
        getattr(one, what) / getattr(other, what)
        for one, other in zip(over, under, strict=True)
        if one and other and getattr(one, what) and getattr(other, what)
    ]
    return f"{spread(found)}; {len(found)}" if found else "-"


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
    bench, seeds = Bench(options.data, options.out), range(options.seeds)
    print(f"{machine()}; rate/ramp/epochs; medians, least and greatest of the seeds\n")
    grids = {name: bench.tune(name, options.rates, options.ramps, options.epochs) for name in options.rows}
    points = {name: best(grid) for name, grid in grids.items()}
    rounds = [bench.back_to_back(points, seed) for seed in seeds]
    print(header("row", *COLUMNS))
    for name, grid in grids.items():
        runs = [each[name] for each in rounds]
        slowest = [each.get("synchronous, κ = 40") for each in rounds]
        beside = [bench.synchronous(name, points[name], seed) for seed in seeds]
        held = [run for run in runs if run.seconds is not None]
        print(
            row(
                name,
                points[name],
                f"{spread([run.seconds or 0 for run in held], '.0f') if held else '-'}; {len(held)} of {len(runs)}",
                ratios(slowest, runs, "seconds"),
                ratios(slowest, runs, "passes"),
                f"{statistics.median(run.examples or 0 for run in held):,.0f}" if held else "-",
                ratios(runs, beside, "examples"),
                ", ".join(f"{100 * run.at_end:.1f}" for run in runs),
                "; ".join(f"{point}: {outcome}" for point, outcome in grid.items()),
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
