"""What a fresh finish costs in robust accuracy, by the loop in one process on MNIST, several seeds.

    python -m benchmarks.finish --data DIR [--seeds 3] [--out FOLDER] [--runs NAME ...]

κ = 8, ε = 0.3, the network of Wong et al., 128 examples a step. steep: one epoch over 59,000 training images, one-cycle
rate with peak 0.008, rate and ε grow over 30 % of the steps. long: three epochs, peak 0.002. Evaluated by PGD-40 (step
0.02) on the 1,000 training images that are held out. Runs that are in FOLDER already are not made again.
"""

from __future__ import annotations

import argparse
import json
import statistics
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import machine
from sparring.config import Config, from_tree

if TYPE_CHECKING:
    from sparring.commands.train import Result

LONG: dict[str, dict[str, Any]] = {"optimizer": {"lr": 0.002}, "train": {"epochs": 3}}
TRADES: dict[str, dict[str, Any]] = {"objective": {"name": "trades", "beta": 1.0}}


def finish(steps: int | str, lead: int = 1) -> dict[str, dict[str, Any]]:
    """The settings of a fresh finish."""
    return {"staleness": {"finish": steps, "lead": lead}}


SERIES: dict[str, dict[str, dict[str, Any]]] = {
    "steep, loop": {},
    "steep, g = 6": finish(6),
    "steep, g = 4": finish(4),
    "steep, g = 2": finish(2),
    "steep, g = 1": finish(1),
    "steep, g = 6, L = 2": finish(6, 2),
    "steep, g = 4, L = 2": finish(4, 2),
    "long, loop": LONG,
    "long, g = 4": LONG | finish(4),
    "long, g = 2": LONG | finish(2),
    "TRADES, loop": TRADES,
    "TRADES, g = 6": TRADES | finish(6),
    "TRADES, g = 4": TRADES | finish(4),
}


def config_of(name: str, seed: int, data: Path, out: Path) -> Config:
    """One run of the series."""
    tree: dict[str, Any] = {
        "engine": "sync",
        "run": {"root": str(out), "name": f"{_slug(name)}-seed{seed}"},
        "data": {"name": "mnist", "root": str(data), "holdout": 1000, "download": False},
        "model": {"name": "mnist-16-32-100"},
        "attack": {"epsilon": 0.3, "steps": 8, "warmup": 0.3},
        "optimizer": {"lr": 0.008},
        "schedule": {"name": "one_cycle", "peak_at": 0.3},
        "train": {"epochs": 1, "batch_size": 128, "seed": seed},
        "queue": {"wire": "exact"},
        "evaluation": {"steps": 1, "restarts": 1, "samples": 10},
        "trainer": {"threads": 1},
        "metrics": {"enabled": False},
    }
    return from_tree(tree | {group: {**tree.get(group, {}), **values} for group, values in SERIES[name].items()})


def robust_accuracy(name: str, seed: int, data: Path, out: Path) -> float:
    """Train and evaluate, or read what an earlier call has found."""
    from sparring.commands.train import train

    config, found = config_of(name, seed, data, out), out / f"{_slug(name)}-seed{seed}.json"
    if not found.exists():
        result = train(config)
        found.write_text(json.dumps({**evaluated(result, config), "seconds": result.summary["seconds"]}))
    return float(json.loads(found.read_text())["robust"])


def evaluated(result: Result, config: Config) -> dict[str, float]:
    """Accuracies on the training images that are held out."""
    from sparring.evaluation.calling import evaluate
    from sparring.trainer.experiment import build_experiment

    heldout = build_experiment(config).heldout
    found = evaluate(result.load_model(), heldout, epsilon=0.3, steps=40, step_size=0.02, restarts=1)
    return {"robust": found.robust_accuracy, "clean": found.clean_accuracy, "samples": found.samples}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/finish"))
    parser.add_argument("--runs", nargs="+", choices=SERIES, default=list(SERIES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    with ProcessPoolExecutor(options.processes) as pool:
        jobs = {
            (name, seed): pool.submit(robust_accuracy, name, seed, options.data, options.out)
            for seed in range(options.seeds)
            for name in options.runs
        }
        print(f"{machine()}\n")
        print("| run | PGD-40, each seed | mean |\n| --- | --- | --- |")
        for name in options.runs:
            values = [100 * jobs[name, seed].result() for seed in range(options.seeds)]
            shown = ", ".join(f"{value:.1f}" for value in values)
            print(f"| {name} | {shown} | {statistics.mean(values):.1f} |", flush=True)


def _slug(name: str) -> str:
    return "".join(sign if sign.isalnum() else "-" for sign in name)


if __name__ == "__main__":
    main()
