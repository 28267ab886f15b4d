"""What a training step costs on the CPU beside its passes, where the process keeps what is freed and where it does not.

    python -m benchmarks.steps [--shards 1 4 8 16] [--rounds 5]

A shard is 128 examples of 3 x 32 x 32. The passes take no time (benchmarks/waiting.py), so what is left are the images,
the perturbations, the loss and the memory for them; one thread. `kept` is what a trainer does
(sparring/machine/memory.py).
Both ways in turn, each time in a fresh process that makes STEPS steps and tells the median; the table has the median of
the rounds, the least and greatest.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.measure import header, in_a_fresh_process, machine, row, spread, write_images
from benchmarks.waiting import BATCH
from sparring.config import from_tree
from sparring.machine.memory import keep_freed_memory
from sparring.queue.messages import Controls
from sparring.trainer.experiment import build_experiment
from sparring.trainer.learner import Learner
from sparring.workers.generator import produce
from sparring.workers.task import Task

STEPS, WARM_UP, EPSILON = 12, 3, 8 / 255


def step_ms(shards: int) -> float:
    """Median milliseconds of a step of so many shards."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "images", shards * BATCH)
        tree = {
            "data": {"name": f"npz:{folder / 'images'}"},
            "model": {"name": "benchmarks.waiting:wait_0_0"},
            "attack": {"epsilon": EPSILON, "steps": 1, "warmup_epochs": 0},
            "optimizer": {"name": "sgd"},
            "train": {"epochs": STEPS, "batch_size": BATCH, "shards_per_step": shards},
        }
        experiment = build_experiment(from_tree(tree))
    learner = Learner(experiment, torch.device("cpu"))
    took: list[float] = []
    for keys in experiment.plan.steps():
        made = [
            produce(
                Task(key, experiment.plan.indices(key.epoch, key.number)),
                learner.context,
                Controls(EPSILON),
                learner.step,
            )
            for key in keys
        ]
        began = time.perf_counter()
        learner.learn(learner.batch(made), keys[0].epoch)
        took.append(1000 * (time.perf_counter() - began))
    return statistics.median(took[WARM_UP:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", nargs="+", type=int, default=[1, 4, 8, 16])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        way, shards = options.only
        if way == "kept":
            keep_freed_memory()
        print(json.dumps(step_ms(int(shards))))
        return
    print(f"{machine()}; one thread, {options.rounds} rounds of {STEPS - WARM_UP} steps\n")
    print(header("shards a step", "given back, ms a shard", "kept, ms a shard", "given back over kept"))
    for shards in options.shards:
        rounds = [
            [
                in_a_fresh_process("benchmarks.steps", "--only", way, str(shards), WAITING_NUMBERS="60") / shards
                for way in ("given", "kept")
            ]
            for _ in range(options.rounds)
        ]
        given, kept = zip(*rounds, strict=True)
        ratios = [one / other for one, other in rounds]
        print(row(shards, spread(given), spread(kept), spread(ratios)), flush=True)


if __name__ == "__main__":
    main()
