"""How long it takes until a network withstands PGD-40 with 2 restarts on 84 % of 1,000 held-out images.

    python -m benchmarks.headline --data DIR [--rates 0.008 0.012 0.02] [--epochs 1 2] [--rows …] [--out FOLDER]

MNIST, the network of Wong et al., batches of 128, both cores of a small machine, nothing else running. Every row is
tuned by the same grid on training data: peak of the one-cycle rate, and its length in epochs of 59,000 images, over the
first 30 % of which ε grows to 0.3. A run leaves a checkpoint every 2 % of its steps; the first that holds the target is
found by bisection afterwards, and its time is that of training alone up to there (of the asynchronous engine: from the
start of the first attack). The best of the grid is the row's time; every run is printed. A run whose target is not held
at its end has no time. Runs that are in FOLDER already are not made again.

`examples` are those that were trained on up to there; over the synchronous loop's at the same κ they say what
staleness costs. The grid is tuned on the same held-out images that the target is measured on, in every row alike.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import header, machine, row
from sparring.attacks.gradient import attack_from
from sparring.config import AttackSettings, Config, from_tree
from sparring.engines.threads import cores
from sparring.evaluation.robustness import evaluate
from sparring.runs import Run
from sparring.trainer.checkpoints import load_weights
from sparring.trainer.parts import prepare
from sparring.training import train

Tree = dict[str, Any]
TARGET, HELD_OUT, BATCH, TRAINING = 0.84, 1000, 128, 59_000
JUDGE = AttackSettings(epsilon=0.3, steps=40, step_size=0.02, restarts=2)
FILE, CHECKPOINTS = "headline.json", 50

SYNC: Tree = {"engine": "sync"}
BULLETTRAIN: Tree = {"allocator": {"name": "bullettrain"}}
RAY: Tree = {"engine": "ray", "workers": {"count": 2}, "staleness": {"depth": 1, "gap_every": 0}}
ROWS: dict[str, Tree] = {
    "synchronous, κ = 40": {**SYNC, "attack": {"steps": 40}},
    "synchronous, κ = 8": SYNC,
    "synchronous, κ = 4": {**SYNC, "attack": {"steps": 4}},
    "synchronous, κ = 3": {**SYNC, "attack": {"steps": 3}},
    "synchronous, κ = 2": {**SYNC, "attack": {"steps": 2}},
    "synchronous, κ = 8, BulletTrain": {**SYNC, **BULLETTRAIN},
    "synchronous, FGSM-RS": {**SYNC, "attack": {"name": "fgsm-rs"}},
    "DDP on all cores, κ = 4": {
        "engine": "ddp",
        "ddp": {"ranks": cores()},
        "attack": {"steps": 4},
        "train": {"batch_size": BATCH // cores(), "shards_per_step": cores()},
    },
    "asynchronous, κ = 8": RAY,
    "asynchronous, κ = 8, BulletTrain": {**RAY, **BULLETTRAIN},
    "asynchronous, κ = 4, BulletTrain": {**RAY, **BULLETTRAIN, "attack": {"steps": 4}},
    "asynchronous, κ = 3": {**RAY, "attack": {"steps": 3}},
    "asynchronous, κ = 2": {**RAY, "attack": {"steps": 2}},
}


@dataclass(frozen=True)
class Outcome:
    """Of one run: training seconds, steps and examples up to the target, None where it was not held; and its end."""

    rate: float
    epochs: int
    seconds: float | None
    examples: int | None
    at_end: float
    whole_seconds: float


def config_of(name: str, rate: float, epochs: int, data: Path, out: Path) -> Config:
    slug = "".join(sign if sign.isalnum() and sign.isascii() else "-" for sign in name.replace("κ = ", "k"))
    tree: Tree = {
        "run": {"root": str(out), "name": f"{slug}-{rate:g}-{epochs}"},
        "data": {"name": "mnist", "root": str(data), "holdout": HELD_OUT, "download": False},
        "model": {"name": "mnist-16-32-100"},
        "attack": {"epsilon": 0.3, "steps": 8, "warmup_epochs": 0.3 * epochs},
        "optimizer": {"lr": rate},
        "schedule": {"name": "one_cycle", "peak_at": 0.3},
        "train": {"epochs": epochs, "batch_size": BATCH},
        "checkpoint": {"every_steps": epochs * TRAINING // BATCH // CHECKPOINTS, "keep": 1000},
        "evaluation": {"steps": 1, "restarts": 1, "samples": 100},
        "metrics": {"every_steps": 1, "enabled": False},
    }
    for group, values in ROWS[name].items():
        tree[group] = {**tree.get(group, {}), **values} if isinstance(values, dict) else values
    return from_tree(tree)


def measured(config: Config, rate: float, epochs: int) -> Outcome:
    """Train, and find the first checkpoint that holds the target; what an earlier call has found is read."""
    run = Run(config.run.root / str(config.run.name))
    found = run.read_json(FILE)
    if found is None:
        found = _outcome(train(config).run, rate, epochs)
        run.write_json(FILE, found)
    return Outcome(**found)


def _outcome(run: Run, rate: float, epochs: int) -> Tree:
    parts = prepare(run.config())
    attack = attack_from(JUDGE, JUDGE.epsilon)
    torch.set_num_threads(cores())
    paths = sorted(run.checkpoints.glob("step-*"))

    def accuracy(index: int) -> float:
        load_weights(paths[index], parts.model)
        return evaluate(parts.model, parts.heldout, attack, samples=HELD_OUT).robust_accuracy

    lines = {line["step"]: line for line in map(json.loads, run.metrics.read_text().splitlines())}
    at_end, whole_s = accuracy(len(paths) - 1), float(lines[max(lines)]["seconds"])
    told: Tree = {"rate": rate, "epochs": epochs, "at_end": at_end, "whole_seconds": whole_s}
    if at_end < TARGET:
        return {**told, "seconds": None, "examples": None}
    low, high = -1, len(paths) - 1  # the target is held at `high`, and not at `low`
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if accuracy(middle) >= TARGET else (middle, high)
    line = lines[int(paths[high].name.removeprefix("step-"))]
    return {**told, "seconds": line["seconds"], "examples": line["examples"]}


def best(outcomes: list[Outcome]) -> Outcome:
    """The earliest; where none has held the target, the one that came nearest."""
    return min(outcomes, key=lambda each: (each.seconds or float("inf"), -each.at_end))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rates", nargs="+", type=float, default=[0.008, 0.012, 0.02])
    parser.add_argument("--epochs", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--out", type=Path, default=Path("runs/headline"))
    options = parser.parse_args()
    print(f"{machine()}\n")
    print(header("row", "best rate, length", "seconds to the target", "over κ = 40", "examples", "runs"))
    slowest: float | None = None
    for name in options.rows:
        grid = [(rate, epochs) for epochs in options.epochs for rate in options.rates]
        outcomes = [measured(config_of(name, *each, options.data, options.out), *each) for each in grid]
        found = best(outcomes)
        slowest = found.seconds if name == "synchronous, κ = 40" else slowest
        gain = f"{slowest / found.seconds:.1f}" if slowest and found.seconds else "-"
        seconds = f"{found.seconds:.0f}" if found.seconds else f"not held: {100 * found.at_end:.1f} % at its end"
        runs = ", ".join(
            f"{each.rate:g}/{each.epochs}: {100 * each.at_end:.1f} % in {each.whole_seconds:.0f} s" for each in outcomes
        )
        print(
            row(name, f"{found.rate:g}, {found.epochs} epochs", seconds, gain, found.examples or "-", runs), flush=True
        )


if __name__ == "__main__":
    main()
