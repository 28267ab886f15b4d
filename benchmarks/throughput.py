"""What throughput is worth: runs with newest weights and with a fresh finish, on the virtual clock with real gradients.

    python -m benchmarks.throughput --data DIR [--devices 2 4 9] [--seeds 1] [--out FOLDER]

The network of Wong et al., 59,000 training images, 128 examples a step, one-cycle rate with peak 0.008, κ = 8, ε = 0.3;
rate and ε grow over 30 % of the steps. Evaluated by PGD-40 (step 0.02) on the 1,000 training images that are held out.
Time model: an attack step and a training step take 10 ms for 128 examples, in proportion for fewer; publication, push
and all-reduce take 1 ms; jitter 5 %. One device is the trainer, which attacks in its spare time. The synchronous loop
and DDP train as the loop in one process does; only their clock differs. Runs in FOLDER are not made again.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks.finish import config_of as finish_config
from benchmarks.finish import evaluated
from benchmarks.measure import machine
from sparring.config import Config, from_tree

STEPS, BATCH, ATTACK_STEPS, EXAMPLE_S, LATENCY_S = 461, 128, 8, 0.01 / 128, 0.001
Tree = dict[str, object]
SMALL: Tree = {"batch_size": 16, "shards_per_step": 8}
LOOSE: Tree = {"depth": 1, "max_staleness": 12}
ROWS: dict[str, Tree] = {
    "asynchronous, newest weights": {"staleness": {"depth": 3, "max_staleness": 12}},
    "asynchronous, shards of 16, d = 1": {"train": SMALL, "staleness": LOOSE},
    "the same, refreshed by 2 steps": {"train": SMALL, "staleness": LOOSE | {"refresh": 2}},
    "the same, weighted by age": {"train": SMALL, "staleness": LOOSE | {"age_half_life": 1}},
    "the same, a quarter of the rate": {"train": SMALL, "staleness": LOOSE, "optimizer": {"lr": 0.002}},
    "fresh finish, g = 6": {"train": SMALL, "staleness": {"finish": 6}},
    "fresh finish, g = 4": {"train": SMALL, "staleness": {"finish": 4}},
    "fresh finish, g = 2": {"train": SMALL, "staleness": {"finish": 2}},
}


def alone_s() -> float:
    """Virtual seconds of the synchronous loop on one device."""
    return STEPS * (ATTACK_STEPS + 1) * BATCH * EXAMPLE_S


def ddp_s(devices: int) -> float:
    """Virtual seconds of synchronous data parallelism on equal devices."""
    return alone_s() / devices + (STEPS * LATENCY_S if devices > 1 else 0.0)


def config_of(row: str, devices: int, seed: int, data: Path, out: Path) -> Config:
    """A run of a row on so many devices."""
    tree = finish_config("steep, loop", seed, data, out).model_dump(mode="json", exclude_none=True)
    clock = {"attack_example_s": EXAMPLE_S, "step_example_s": EXAMPLE_S, "publish_s": LATENCY_S, "push_s": LATENCY_S}
    changes: dict[str, Tree] = {
        "run": {"name": f"{_slug(row)}-{devices}-seed{seed}"},
        "workers": {"count": devices - 1},
        "virtual": {**clock, "jitter": 0.05},
    }
    for group, values in [*changes.items(), *ROWS[row].items()]:
        tree[group] = {**tree[group], **values}  # type: ignore[dict-item]
    return from_tree({**tree, "engine": "virtual"})


def measured(row: str, devices: int, seed: int, data: Path, out: Path) -> dict[str, float]:
    """Robust accuracy, virtual seconds and mean staleness."""
    from sparring.commands.train import train

    config = config_of(row, devices, seed, data, out)
    found = out / f"{config.run.name}.json"
    if not found.exists():
        result = train(config)
        line = evaluated(result, config)
        kept = {name: result.summary[name] for name in ("seconds", "staleness_mean", "staleness_max")}
        found.write_text(json.dumps({**line, **kept}))
    content: dict[str, float] = json.loads(found.read_text())
    return content


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/throughput"))
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--devices", type=int, nargs="+", default=[2, 4, 9])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    print(f"{machine()}\n")
    print("| devices | row | virtual seconds | speed-up | PGD-40 | staleness, mean / max |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    with ProcessPoolExecutor(options.processes) as pool:
        jobs = {
            (devices, row, seed): pool.submit(measured, row, devices, seed, options.data, options.out)
            for devices in options.devices
            for row in options.rows
            for seed in range(options.seeds)
        }
        for devices in options.devices:
            print(
                f"| {devices} | ideal DDP | {ddp_s(devices):.1f} | {alone_s() / ddp_s(devices):.1f} | the loop's | 0 |"
            )
            for row in options.rows:
                _print(devices, row, [jobs[devices, row, seed].result() for seed in range(options.seeds)])


def _print(devices: int, row: str, found: list[dict[str, float]]) -> None:
    def mean(of: Callable[[dict[str, float]], float]) -> float:
        return statistics.mean(of(each) for each in found)

    seconds = mean(lambda each: each["seconds"])
    robust = ", ".join(f"{100 * each['robust']:.1f}" for each in found)
    stale = f"{mean(lambda each: each['staleness_mean']):.1f} / {max(each['staleness_max'] for each in found):.0f}"
    print(f"| {devices} | {row} | {seconds:.1f} | {alone_s() / seconds:.1f} | {robust} | {stale} |", flush=True)


def _slug(name: str) -> str:
    return "".join(sign if sign.isalnum() else "-" for sign in name)


if __name__ == "__main__":
    main()
