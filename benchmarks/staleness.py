"""What staleness does to robustness, and what heals it: the simulated engine on MNIST, several seeds.

    python -m benchmarks.staleness --data DIR [--seeds 3] [--out FOLDER]

1,200 steps of 128 examples (51,200 training images, 3 epochs), κ = 8, ε = 0.3 warmed up over 30 % of the steps,
one-cycle rate with peak 0.002, the network of Wong et al.; tested by PGD-40 (step 0.02, 2 restarts) on the first 1,000
test images. Runs that are in FOLDER already are not made again.
"""

from __future__ import annotations

import argparse
import json
import statistics
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks.measure import machine
from sparring.config import Config, from_tree

SERIES: dict[str, dict[str, dict[str, object]]] = {
    "staleness 0": {},
    "staleness 16": {"simulated": {"staleness": 16}},
    "staleness 16, exchange (ends at 0)": {"simulated": {"staleness": 16, "exchange": True}},
    "staleness 16, refresh 1": {"simulated": {"staleness": 16}, "staleness": {"refresh": 1}},
    "staleness 32": {"simulated": {"staleness": 32}},
    "staleness 32, exchange (ends at 0)": {"simulated": {"staleness": 32, "exchange": True}},
    "staleness 32, refresh 1": {"simulated": {"staleness": 32}, "staleness": {"refresh": 1}},
    "staleness 32, refresh 2": {"simulated": {"staleness": 32}, "staleness": {"refresh": 2}},
    "staleness 64": {"simulated": {"staleness": 64}},
    "staleness 64, guard": {"simulated": {"staleness": 64}, "guard": {"staleness": True}},
}


def config_of(name: str, seed: int, data: Path, out: Path) -> Config:
    """One run of the series."""
    tree: dict[str, object] = {
        "engine": "simulated",
        "run": {"root": str(out), "name": f"{_slug(name)}-seed{seed}"},
        "data": {"name": "mnist", "root": str(data), "holdout": 8800, "download": False},
        "model": {"name": "mnist-16-32-100"},
        "attack": {"epsilon": 0.3, "steps": 8, "warmup_epochs": 0.9},
        "optimizer": {"lr": 0.002},
        "schedule": {"name": "one_cycle", "peak_at": 0.3},
        "train": {"epochs": 3, "batch_size": 128, "seed": seed},
        "evaluation": {"steps": 40, "step_size": 0.02, "restarts": 2, "samples": 1000},
        "trainer": {"threads": 1},
        "metrics": {"enabled": False},
    }
    return from_tree({**tree, **SERIES[name]})


def robust_accuracy(name: str, seed: int, data: Path, out: Path) -> float:
    """Train, or read what an earlier call has trained."""
    from sparring.commands.train import train

    done = out / f"{_slug(name)}-seed{seed}" / "summary.json"
    summary = json.loads(done.read_text()) if done.exists() else train(config_of(name, seed, data, out)).summary
    return float(summary["robust_accuracy"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/staleness"))
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
        print("| run | PGD-40, each seed | median |\n| --- | --- | --- |")
        for name in options.runs:
            values = [100 * jobs[name, seed].result() for seed in range(options.seeds)]
            shown = ", ".join(f"{value:.1f}" for value in values)
            print(f"| {name} | {shown} | {statistics.median(values):.1f} |", flush=True)


def _slug(name: str) -> str:
    return "".join(sign if sign.isalnum() else "-" for sign in name)


if __name__ == "__main__":
    main()
