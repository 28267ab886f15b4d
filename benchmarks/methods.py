"""PGD-AT, TRADES, MART and FGSM-RS, each with and without BulletTrain, on MNIST with the same network and seeds.

    python -m benchmarks.methods --data DIR [--seeds 3] [--methods …] [--autoattack 1000] [--out FOLDER]

2,000 steps of 128 examples (51,200 training images, 5 epochs), κ = 8 (FGSM-RS: 1), ε = 0.3 warmed up over 30 % of the
steps, one-cycle rate with peak 0.002, the network of paper 003, the synchronous engine with one thread; N_B = κ,
N_R = 2, N_O = 0 (FGSM-RS: N_R = 0), γ = 0.8, p = 0.9; β = 1 for TRADES as its authors use on MNIST, 5 for MART. Judged
by PGD-40 (step 0.01, 2 restarts) on all 10,000 test images, and by AutoAttack on the first of them. Runs that are in
FOLDER already are not made again. Two run at a time; the time is the processor's for training with one thread, since
the wall-clock of two runs side by side says more of the machine than of the method. FGSM-RS has the guard against
overfitting on, whose gradients are counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from sparring.config import Config, from_tree
from sparring.evaluation.runs import evaluate_run
from sparring.runs import Run
from sparring.training import train

Tree = dict[str, dict[str, Any]]
FILE = "methods.json"
PGD = {"steps": 40, "step_size": 0.01, "restarts": 2, "samples": 10_000}
METHODS: dict[str, Tree] = {
    "PGD-AT": {},
    "TRADES": {"objective": {"name": "trades", "beta": 1.0}},
    "MART": {"objective": {"name": "mart", "beta": 5.0}},
    "FGSM-RS": {"attack": {"name": "fgsm-rs"}, "guard": {"overfitting": "rollback"}},
}


def tree_of(method: str, bullettrain: bool, seed: int, data: Path, out: Path) -> Config:
    """One run of the table."""
    name = f"{method.lower()}{'-bt' if bullettrain else ''}-seed{seed}"
    robust_steps = 0 if method == "FGSM-RS" else 2
    tree: dict[str, Any] = {
        "engine": "sync",
        "run": {"root": str(out), "name": name},
        "data": {"name": "mnist", "root": str(data), "holdout": 8800, "download": False},
        "model": {"name": "mnist-16-32-100"},
        "attack": {"epsilon": 0.3, "steps": 8, "warmup_epochs": 1.5},
        "allocator": {"name": "bullettrain" if bullettrain else "none", "robust_steps": robust_steps},
        "optimizer": {"lr": 0.002},
        "schedule": {"name": "one_cycle", "peak_at": 0.3},
        "train": {"epochs": 5, "batch_size": 128, "seed": seed},
        "evaluation": {"samples": 1, "steps": 1, "restarts": 1},
        "trainer": {"threads": 1},
        "metrics": {"enabled": False},
    }
    for group, values in METHODS[method].items():
        tree[group] = {**tree.get(group, {}), **values}
    return from_tree(tree)


def measured(config: Config, autoattack: int) -> dict[str, Any]:
    """One run's summary, processor seconds and two judgements; what an earlier call has left is read."""
    run = Run(config.run.root / str(config.run.name))
    found: dict[str, Any] = run.read_json(FILE) or {}
    if not found:
        began = time.process_time()
        summary = train(config).summary
        found = {**summary, "processor_seconds": time.process_time() - began, **_judged(run, PGD)}
        run.write_json(FILE, found)
    if autoattack and found.get("autoattack_samples") != autoattack:
        judged = _judged(run, {"attack": "autoattack", "samples": autoattack})
        found |= {"autoattack": judged["robust_accuracy"], "autoattack_samples": autoattack}
        run.write_json(FILE, found)
    return found


def _judged(run: Run, settings: dict[str, Any]) -> dict[str, Any]:
    return evaluate_run(run, {f"evaluation.{name}": str(value) for name, value in settings.items()})


def row(name: str, runs: list[dict[str, Any]]) -> str:
    """A line of the table: medians, with all seeds' robust accuracies."""

    def median(key: str) -> float:
        return statistics.median(float(run[key]) for run in runs)

    robust = ", ".join(f"{100 * run['robust_accuracy']:.1f}" for run in runs)
    auto = ", ".join("-" if run.get("autoattack") is None else f"{100 * run['autoattack']:.1f}" for run in runs)
    allocated = runs[0]["allocated"]
    total = max(sum(allocated.values()), 1)
    shares = " / ".join(f"{allocated.get(name, 0) / total:.2f}" for name in ("boundary", "robust", "outlier"))
    cells = [
        name,
        f"{100 * median('clean_accuracy'):.1f}",
        robust,
        auto,
        f"{median('gradients_per_example'):.2f}",
        shares if allocated else "-",
        f"{median('processor_seconds'):.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/methods"))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--autoattack", type=int, default=1000, help="test images that AutoAttack judges; 0: none")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    rows = [(method, bullettrain) for method in options.methods for bullettrain in (False, True)]
    with ProcessPoolExecutor(options.processes) as pool:
        jobs = {  # one seed after the other, so that a run that is cut short has whole seeds
            (*each, seed): pool.submit(
                measured, tree_of(*each, seed, options.data, options.out.resolve()), options.autoattack
            )
            for seed in range(options.seeds)
            for each in rows
        }
        print(
            "| method | clean | PGD-40, each seed | AutoAttack, each seed | gradients an example | "
            "boundary / robust / outlier | processor seconds |\n| --- | --- | --- | --- | --- | --- | --- |"
        )
        for method, bullettrain in rows:
            runs = [jobs[method, bullettrain, seed].result() for seed in range(options.seeds)]
            print(row(f"{method}{' + BulletTrain' if bullettrain else ''}", runs), flush=True)
        print(json.dumps({"seeds": options.seeds, "autoattack_samples": options.autoattack}))


if __name__ == "__main__":
    main()
