"""PGD-AT, TRADES, MART and FGSM-RS, each with and without BulletTrain, on MNIST with the same network and seeds.

    python -m benchmarks.methods --data DIR [--seeds 3] [--methods …] [--autoattack 1000] [--out FOLDER]
        [--records FILE]

2,000 steps of 128 examples (51,200 training images, 5 epochs), κ = 8 (FGSM-RS: 1), ε = 0.3 warmed up over 30 % of the
steps, one-cycle rate with peak 0.002 (FGSM-RS: 0.012, since at 0.002 one step does not hold this ε), the network of
Wong et al., the synchronous engine with one thread; N_B = κ, N_R = 2 (FGSM-RS: 0), N_O = 0, γ = 0.8 (TRADES: 0.65),
p = 0.9; β = 1 for TRADES as its authors use on MNIST, 5 for MART.
Judged by PGD-40 (step 0.01, 2 restarts) on all 10,000 test images, and by AutoAttack on the first of them. Runs that
are in FOLDER already are not made again, and networks that have a line in FILE with as many images neither. Every
figure is the mean of the seeds with their range. Two run at a time with one thread each, so the processor's seconds of
training compare the methods, and the wall-clock says how busy the machine was. FGSM-RS has the guard against
overfitting on, which looks at training data alone; its gradients count too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from benchmarks.measure import machine
from sparring.commands.evaluate import evaluate_run
from sparring.commands.train import train
from sparring.config import Config, from_tree
from sparring.evaluation.robustness import interval
from sparring.runs import Run

Tree = dict[str, dict[str, Any]]
Runs = list[dict[str, Any]]  # of one method, seed by seed
FILE = "methods.json"
KEPT = (  # of a network, in the records
    *("clean_accuracy", "robust_accuracy", "gradients_per_example", "allocated"),
    *("processor_seconds", "seconds", "autoattack", "autoattack_samples"),
)
BULLETTRAIN = " + BulletTrain"
PGD = {"steps": 40, "step_size": 0.01, "restarts": 2, "samples": 10_000}
METHODS: dict[str, Tree] = {
    "PGD-AT": {},
    "TRADES": {"objective": {"name": "trades", "beta": 1.0}, "allocator": {"gamma": 0.65}},
    "MART": {"objective": {"name": "mart", "beta": 5.0}},
    "FGSM-RS": {
        "attack": {"name": "fgsm-rs"},
        "optimizer": {"lr": 0.012},
        "guard": {"overfitting": "rollback"},
        "allocator": {"robust_steps": 0},
    },
}


def tree_of(method: str, bullettrain: bool, seed: int, data: Path, out: Path) -> Config:
    """One run of the table."""
    name = f"{method.lower()}{'-bt' if bullettrain else ''}-seed{seed}"
    tree: dict[str, Any] = {
        "engine": "sync",
        "run": {"root": str(out), "name": name},
        "data": {"name": "mnist", "root": str(data), "holdout": 8800, "download": False},
        "model": {"name": "mnist-16-32-100"},
        "attack": {"epsilon": 0.3, "steps": 8, "warmup_epochs": 1.5},
        "allocator": {"name": "bullettrain" if bullettrain else "none"},
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
        found = {**summary, "processor_seconds": time.process_time() - began, **_evaluated(run, PGD)}
        run.write_json(FILE, found)
    if autoattack and found.get("autoattack_samples") != autoattack:
        evaluated = _evaluated(run, {"attack": "autoattack", "samples": autoattack})
        found |= {"autoattack": evaluated["robust_accuracy"], "autoattack_samples": autoattack}
        run.write_json(FILE, found)
    print(f"{run.path.name}: {100 * found['robust_accuracy']:.2f} % under PGD-40", file=sys.stderr, flush=True)
    return found


def _evaluated(run: Run, settings: dict[str, Any]) -> dict[str, Any]:
    return evaluate_run(run, {f"evaluation.{name}": str(value) for name, value in settings.items()})


def recorded(path: Path | None, autoattack: int) -> dict[str, dict[str, Any]]:
    """The figures of the networks that FILE has judged by AutoAttack on so many images, by the run's name."""
    lines = path.read_text().splitlines() if path is not None and path.exists() else []
    found = {line["run"]: line for line in map(json.loads, lines)}
    return {name: line for name, line in found.items() if line.get("autoattack_samples", 0) == autoattack}


def figures(configs: Sequence[Config], options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Of every network, by the run's name: from FILE, or made now and added to it as soon as it is there."""
    found = recorded(options.records, options.autoattack)
    with ProcessPoolExecutor(options.processes) as pool:
        jobs = {
            pool.submit(measured, config, options.autoattack): str(config.run.name)
            for config in configs
            if config.run.name not in found
        }
        for job in as_completed(jobs):
            made = {"run": jobs[job], **{key: job.result()[key] for key in KEPT if key in job.result()}}
            found[jobs[job]] = made
            if options.records is not None:
                with options.records.open("a") as records:
                    records.write(json.dumps(made) + "\n")
    return found


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Mean (least to greatest)."""
    return f"{statistics.mean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def of(runs: Runs, key: str, scale: float = 1.0) -> list[float]:
    """One figure of every seed."""
    return [scale * float(run[key]) for run in runs]


def table_of_methods(results: Mapping[str, Runs]) -> list[str]:
    """Mean and range over the seeds; a method with BulletTrain against the one without."""
    lines = [
        "| method | clean | PGD-40 | against its base | attack gradients an example | of its base's | "
        "boundary / robust / outlier | processor, s | wall-clock, s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, runs in results.items():
        base = results.get(name.removesuffix(BULLETTRAIN)) if name.endswith(BULLETTRAIN) else None
        apart, of_base = "-", "-"
        if base is not None:
            gap = statistics.mean(of(runs, "robust_accuracy", 100)) - statistics.mean(of(base, "robust_accuracy", 100))
            spent, whole = (statistics.mean(of(each, "gradients_per_example")) for each in (runs, base))
            apart, of_base = f"{gap:+.1f}", f"{spent / whole:.2f}"
        cells = [
            name,
            spread(of(runs, "clean_accuracy", 100)),
            spread(of(runs, "robust_accuracy", 100)),
            apart,
            spread(of(runs, "gradients_per_example"), 2),
            of_base,
            shares(runs),
            spread(of(runs, "processor_seconds"), 0),
            spread(of(runs, "seconds"), 0),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def shares(runs: Runs) -> str:
    """Of all that the allocator has classified, over the seeds."""
    counts = [sum(run["allocated"].get(name, 0) for run in runs) for name in ("boundary", "robust", "outlier")]
    return " / ".join(f"{count / sum(counts):.2f}" for count in counts) if any(counts) else "-"


def table_of_autoattack(results: Mapping[str, Runs]) -> list[str]:
    """The same models; intervals are Wilson's at 95 % of a single seed."""
    lines = [
        "| method | seeds | test images | AutoAttack | each seed (95 % interval) |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, runs in results.items():
        attacked = [run for run in runs if run.get("autoattack") is not None]
        if not attacked:
            continue
        samples = int(attacked[0]["autoattack_samples"])
        each = []
        for share in of(attacked, "autoattack"):
            low, high = interval(round(share * samples), samples)
            each.append(f"{100 * share:.1f} ({100 * low:.1f} to {100 * high:.1f})")
        lines.append(
            f"| {name} | {len(attacked)} | {samples} | {spread(of(attacked, 'autoattack', 100))} | {', '.join(each)} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/methods"))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--autoattack", type=int, default=1000, help="test images that AutoAttack evaluates; 0: none")
    parser.add_argument("--records", type=Path, help="A line of JSON for each network is read from here and added.")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    rows = [(method, bullettrain) for method in options.methods for bullettrain in (False, True)]
    configs = {  # one seed after the other, so that a run that is cut short has whole seeds
        (*row, seed): tree_of(*row, seed, options.data, options.out.resolve())
        for seed in range(options.seeds)
        for row in rows
    }
    found = figures(list(configs.values()), options)
    results = {
        f"{method}{BULLETTRAIN if bullettrain else ''}": [
            found[str(configs[method, bullettrain, seed].run.name)] for seed in range(options.seeds)
        ]
        for method, bullettrain in rows
    }
    print(f"{machine()}\n")
    print("\n".join(table_of_methods(results)))
    if options.autoattack:
        print("\n" + "\n".join(table_of_autoattack(results)))
    print(json.dumps({"seeds": options.seeds, "pgd_samples": PGD["samples"], "autoattack_samples": options.autoattack}))


if __name__ == "__main__":
    main()
