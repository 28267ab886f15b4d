"""How many workers on one device pay: examples a second of whole short runs with 1, 2, 4 workers beside the trainer.

    python -m benchmarks.sharing [--workers 1 2 4] [--network preact-resnet-18] [--steps 60] [--gpus 1]

Noise in the shape of CIFAR-10, PGD with κ = 8, batches of 128; on a GPU the trainer and all workers share it in equal
parts. The synchronous loop on the same device stands in the first row. The first steps, in which processes start, are
not counted: figures are those of the whole run less those of its first quarter.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measure import header, in_a_fresh_process, machine, row, write_images
from sparring.config import Config, from_tree
from sparring.runs import lines_of


def config_of(options: argparse.Namespace, workers: int, folder: Path) -> Config:
    """A short run; without workers the synchronous loop."""
    part = options.gpus / (workers + 1) if options.gpus else 0.0
    tree: dict[str, Any] = {
        "engine": "ray" if workers else "sync",
        "run": {"root": str(folder / "runs"), "name": f"with-{workers}"},
        "data": {"name": f"npz:{folder / 'images'}"},
        "model": {"name": options.network},
        "attack": {"epsilon": 8 / 255, "steps": 8, "warmup": 0},
        "train": {"epochs": 100, "batch_size": options.batch, "max_steps": options.steps},
        "workers": {"count": workers or 1, "num_gpus": part if workers else 0},
        "trainer": {"num_gpus": part if workers else 0},
        "metrics": {"enabled": False, "every_steps": 5},
        "evaluation": {"steps": 1, "restarts": 1, "samples": 16},
        "staleness": {"gap_every": 0},
    }
    return from_tree(tree)


def pace(lines: list[dict[str, Any]]) -> float:
    """Examples a second of the last three quarters of a run."""
    first, last = lines[len(lines) // 4], lines[-1]
    return float((last["examples"] - first["examples"]) / (last["seconds"] - first["seconds"]))


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """One run: its pace and mean staleness."""
    from sparring.commands.train import train

    result = train(config_of(options, options.only, Path(options.folder)), progress=False)
    return {"pace": pace(lines_of(result.run.metrics)), "staleness": result.summary["staleness_mean"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--network", default="preact-resnet-18")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--gpus", type=float, default=0.0, help="GPUs that trainer and workers share")
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only is not None:
        print(json.dumps(measured(options)))
        return
    print(f"{machine()}; {options.network}, batches of {options.batch}, {options.steps} steps\n")
    print(header("workers", "examples a second", "over the synchronous loop", "staleness, mean"))
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder) / "images", options.batch * 8)
        alone = None
        for workers in (0, *options.workers):
            found = in_a_fresh_process("benchmarks.sharing", *sys.argv[1:], "--only", str(workers), "--folder", folder)
            alone = alone or found["pace"]
            cells = (f"{found['pace']:.0f}", f"{found['pace'] / alone:.2f}", f"{found['staleness']:.2f}")
            print(row(workers or "none (sync)", *cells), flush=True)


if __name__ == "__main__":
    main()
