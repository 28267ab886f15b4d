"""What a fresh finish costs in robust accuracy, by the loop in one process, several seeds.

    python -m benchmarks.finish --data DIR [--seeds 3] [--out FOLDER] [--runs NAME ...]

κ = 8, 128 examples a step unless a name says otherwise. steep: MNIST, ε = 0.3, the network of Wong et al., one epoch
over 59,000 training images, one-cycle rate with peak 0.008, rate and ε grow over 30 % of the steps. long: three epochs,
peak 0.002. CIFAR-10: the same network, ε = 8/255, two epochs over 24,000 images, peak 0.004. digits: ε = 0.2, eight
epochs over 1,137 images. Evaluated by PGD-40 (step ε/15) on the training images that are held out: 1,000, of the digits
300. Runs that are in FOLDER already are not made again.
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
from sparring.lab.work import Place
from sparring.models.normalize import CIFAR10_MEAN, CIFAR10_STD

if TYPE_CHECKING:
    from sparring.commands.train import Result

LARGE: dict[str, dict[str, Any]] = {"train": {"batch_size": 256}}
LONG: dict[str, dict[str, Any]] = {"optimizer": {"lr": 0.002}, "train": {"epochs": 3}}
TRADES: dict[str, dict[str, Any]] = {"objective": {"name": "trades", "beta": 1.0}}
CIFAR: dict[str, dict[str, Any]] = {
    "data": {"name": "cifar10", "limit": 24_000, "mean": CIFAR10_MEAN, "std": CIFAR10_STD},
    "attack": {"epsilon": 8 / 255},
    "optimizer": {"lr": 0.004},
    "train": {"epochs": 2},
}
DIGITS: dict[str, dict[str, Any]] = {
    "data": {"name": "digits", "holdout": 300},
    "model": {"name": "digits-cnn"},
    "attack": {"epsilon": 0.2},
    "train": {"epochs": 8, "batch_size": 64},
}


def finish(steps: int | str, lead: int = 1) -> dict[str, dict[str, Any]]:
    """The settings of a fresh finish."""
    return {"staleness": {"finish": steps, "lead": lead}}


SERIES: dict[str, dict[str, dict[str, Any]]] = {
    "steep, loop": {},
    "steep, g = 6": finish(6),
    "steep, g = 4": finish(4),
    "steep, g = 3": finish(3),
    "steep, g = 2": finish(2),
    "steep, g = 1": finish(1),
    "steep, g = 6, L = 2": finish(6, 2),
    "steep, g = 4, L = 2": finish(4, 2),
    "steep, loop, 256 a step": LARGE,
    "steep, loop, 256 a step, 1.4 times the rate": LARGE | {"optimizer": {"lr": 0.0113}},
    "steep, loop, 256 a step, twice the rate": LARGE | {"optimizer": {"lr": 0.016}},
    "long, loop": LONG,
    "long, g = 4": LONG | finish(4),
    "long, g = 2": LONG | finish(2),
    "TRADES, loop": TRADES,
    "TRADES, g = 6": TRADES | finish(6),
    "TRADES, g = 4": TRADES | finish(4),
    "CIFAR-10, loop": CIFAR,
    "CIFAR-10, g = 6": CIFAR | finish(6),
    "CIFAR-10, g = 4": CIFAR | finish(4),
    "CIFAR-10, g = 2": CIFAR | finish(2),
    "digits, loop": DIGITS,
    "digits, g = 6": DIGITS | finish(6),
    "digits, g = 4": DIGITS | finish(4),
    "digits, g = 2": DIGITS | finish(2),
}


def config_of(name: str, seed: int, data: Path, out: Path) -> Config:
    """One run of the series."""
    tree: dict[str, Any] = {
        "engine": "sync",
        "run": {"root": str(out), "name": f"{_slug(name)}-seed{seed}"},
        "data": {"name": "mnist", "holdout": 1000, "download": False},
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
    tree |= {group: {**tree.get(group, {}), **values} for group, values in SERIES[name].items()}
    where = Place(data, out).with_data({"data.name": tree["data"]["name"]})
    tree["data"] |= {name.removeprefix("data."): value for name, value in where.items()}
    return from_tree(tree)


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

    heldout, epsilon = build_experiment(config).heldout, config.attack.epsilon
    found = evaluate(result.load_model(), heldout, epsilon=epsilon, steps=40, step_size=epsilon / 15, restarts=1)
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
