"""What each process of a run takes, by network and batch, and whether any grows over many shards.

    python -m benchmarks.memory [--shards 10000] [--networks mnist-16-32-100:128 mnist-32-64-1024:128 ...]

Resident memory in MiB as Linux tells it (shared pages of Ray's object store included). The first table: the greatest
of a few steps of PGD-2, by network and batch. The second: a run of many shards of 16 small images, whose passes take no
time, after each tenth of them; `queue` is what Redis says that it uses. Growth is that of the second half: the first
one fills caches.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measure import header, machine, row, write_images
from sparring.commands.train import train
from sparring.config import from_tree
from sparring.observe.state import RunState

FEW_STEPS, WORKERS = 6, 2
SHAPES = {"mnist": (28, 28, 1), "digits": (8, 8, 1)}
Sizes = dict[str, float]  # MiB by process


def resident_mib(pid: int, field: str) -> float:
    """VmRSS, or VmHWM for the greatest there was; 0 where the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(field)), 0.0)


class Watch:
    """Looks at a run's processes when it has trained on so many shards more."""

    def __init__(self, every: int, field: str) -> None:
        self.every, self.field = every, field
        self.seen: list[tuple[int, Sizes]] = []

    def show(self, state: RunState, workers: dict[str, dict[str, Any]]) -> None:
        shards = state.worker_shards + state.trainer_shards
        if not state.trainer_pid or len(workers) < WORKERS or shards < self.every * (len(self.seen) + 1):
            return
        pids = {"driver": os.getpid(), "trainer": state.trainer_pid}
        pids |= {name: beat["pid"] for name, beat in workers.items()}
        sizes = {name: resident_mib(pid, self.field) for name, pid in pids.items()}
        self.seen.append((shards, {**sizes, "queue": state.queue_bytes / 2**20}))


def watched(folder: Path, network: str, batch: int, shards: int, watch: Watch) -> None:
    """A run of so many shards."""
    tree = {
        "run": {"root": str(folder / "runs")},
        "data": {"name": f"npz:{folder / 'images'}"},
        "model": {"name": network},
        "attack": {"steps": 2, "warmup_epochs": 0},
        "train": {"epochs": 10**5, "max_steps": shards, "batch_size": batch},
        "staleness": {"trainer_attacks": "never", "gap_every": 0},
        "workers": {"count": WORKERS, "threads": 1, "start_timeout_s": 600},
        "trainer": {"threads": 1},
        "evaluation": {"steps": 1, "restarts": 1, "samples": 16},
        "checkpoint": {"every_steps": max(1, shards // 10)},
        "metrics": {"enabled": False},
    }
    train(from_tree(tree), watch.show)


def by_network(named: str) -> Sizes:
    network, _, batch = named.partition(":")
    with tempfile.TemporaryDirectory() as name:
        folder, size = Path(name), int(batch or 128)
        write_images(folder / "images", 4 * size, SHAPES.get(network.split("-")[0], (32, 32, 3)))
        watch = Watch(FEW_STEPS, "VmHWM")
        watched(folder, network, size, 10 * FEW_STEPS, watch)
        return watch.seen[-1][1]


def over_time(shards: int) -> list[tuple[int, Sizes]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "images", 1024, SHAPES["digits"])
        watch = Watch(shards // 10, "VmRSS")
        watched(folder, "digits-cnn", 16, shards + 50, watch)
        return watch.seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument(
        "--networks",
        nargs="+",
        default=["digits-cnn:64", "mnist-16-32-100:128", "mnist-32-64-1024:128", "preact-resnet-18:32"],
    )
    options = parser.parse_args()
    print(f"{machine()}, {WORKERS} workers\n")
    names = ["driver", "trainer", *(f"worker-{number}" for number in range(WORKERS)), "queue"]
    print(header("network", "batch", *names))
    for named in options.networks:
        network, _, batch = named.partition(":")
        sizes = by_network(named)
        print(row(network, batch, *(f"{sizes[name]:.0f}" for name in names)), flush=True)
    print(f"\n{header('shards', *names)}")
    seen = over_time(options.shards)
    for shards, sizes in seen:
        print(row(shards, *(f"{sizes[name]:.1f}" for name in names)))
    middle, last = seen[len(seen) // 2 - 1][1], seen[-1][1]
    print(row("growth of the second half", *(f"{last[name] - middle[name]:+.1f}" for name in names)))


if __name__ == "__main__":
    main()
