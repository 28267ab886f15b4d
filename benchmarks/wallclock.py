"""Wall-clock of the Ray engine with two workers against the synchronous engine on the same cores, in turn.

    python -m benchmarks.wallclock --data DIR [--rounds 5]

MNIST, the network of paper 003, κ = 8; each engine trains for the same number of steps in every round, the order
alternates. What two workers can gain is bounded by how badly the synchronous loop uses the second core, which small
batches do worst. The clock runs over training alone (of the Ray engine: from the start of its first attack); starting
processes and the judgement at the end are left out. Medians and all values are printed.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
from pathlib import Path

import ray
import torch

from sparring.config import from_tree
from sparring.training import train


def seconds(engine: str, options: argparse.Namespace, out: Path) -> tuple[float, float]:
    """Seconds of training, and the mean staleness."""
    result = train(
        from_tree(
            {
                "engine": engine,
                "run": {"root": str(out)},
                "data": {"name": "mnist", "root": str(options.data), "download": False},
                "model": {"name": "mnist-16-32-100"},
                "attack": {"epsilon": 0.3, "steps": 8, "warmup_epochs": 1},
                "train": {"epochs": 10, "batch_size": options.batch_size, "max_steps": options.steps},
                "staleness": {"gap_every": 0, "publish_every": options.publish_every, "max_staleness": 16},
                "workers": {"count": 2},
                "evaluation": {"steps": 1, "restarts": 1, "samples": 100},
                "metrics": {"enabled": False},
            }
        )
    )
    return result.summary["seconds"], result.summary["staleness_mean"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--publish-every", type=int, default=8)
    options = parser.parse_args()
    print(
        f"python {platform.python_version()}, torch {torch.__version__}, ray {ray.__version__}, {os.cpu_count()} cores"
    )
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(options.rounds):
            order = ("sync", "ray") if turn % 2 == 0 else ("ray", "sync")
            took = {engine: seconds(engine, options, Path(folder)) for engine in order}
            ratios.append(took["sync"][0] / took["ray"][0])
            print(
                f"round {turn + 1}: sync {took['sync'][0]:.2f} s, ray {took['ray'][0]:.2f} s, ratio {ratios[-1]:.3f}, "
                f"mean staleness {took['ray'][1]:.2f}",
                flush=True,
            )
    print(
        f"median ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}), {options.steps} steps"
    )


if __name__ == "__main__":
    main()
