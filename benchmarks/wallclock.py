"""Wall-clock of the Ray engine with two workers against the synchronous engine on the same cores, in turn.

    python -m benchmarks.wallclock --data DIR [--rounds 5] [--batch-size 16] [--publish-every 8]

MNIST, the network of Wong et al., κ = 8; each engine trains for the same number of steps in every round, in a fresh
process, and the order alternates. What two workers can gain is bounded by how badly the synchronous loop uses the
second core, which small batches do worst: the limit printed beside is two threads' time over half of one thread's time
for the same attacks and steps, without Ray or queue. The clock runs over training alone (of the Ray engine: from the
start of its first attack); starting processes and the judgement at the end are left out. All values are printed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import in_a_fresh_process, machine
from sparring.commands.train import train
from sparring.config import Config, from_tree
from sparring.machine.threads import cores
from sparring.queue.messages import Controls
from sparring.trainer.experiment import build_experiment
from sparring.trainer.learner import Learner
from sparring.workers.generator import produce
from sparring.workers.task import Task

LIMIT_STEPS = 60


def configuration(engine: str, options: argparse.Namespace) -> Config:
    """The same training for both engines."""
    return from_tree(
        {
            "engine": engine,
            "run": {"root": str(options.out)},
            "data": {"name": "mnist", "root": str(options.data), "download": False},
            "model": {"name": "mnist-16-32-100"},
            "attack": {"epsilon": 0.3, "steps": 8, "warmup_epochs": 1},
            "train": {"epochs": 10, "batch_size": options.batch_size, "max_steps": options.steps},
            "staleness": {"gap_every": 0, "publish_every": options.publish_every, "max_staleness": options.bound},
            "queue": {"weights": options.weights},
            "workers": {"count": 2},
            "evaluation": {"steps": 1, "restarts": 1, "samples": 100},
            "metrics": {"enabled": False},
        }
    )


def engine_seconds(engine: str, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of training, and the mean staleness."""
    summary = train(configuration(engine, options)).summary
    return {name: summary[name] for name in ("seconds", "staleness_mean", "shards_dropped")}


def bare_seconds(threads: int, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of LIMIT_STEPS attacks and steps with so many threads, nothing else around them."""
    experiment = build_experiment(configuration("sync", options))
    learner = Learner(experiment, torch.device("cpu"))
    torch.set_num_threads(threads)
    began = time.perf_counter()
    for number, (key,) in enumerate(experiment.plan.steps()):
        if number == LIMIT_STEPS // 3:
            began = time.perf_counter()
        if number == LIMIT_STEPS + LIMIT_STEPS // 3:
            break
        task = Task(key, experiment.plan.indices(key.epoch, key.number))
        shard = produce(task, learner.context, Controls(0.3), number)
        learner.learn(learner.batch([shard]), key.epoch)
    return {"seconds": time.perf_counter() - began}


def apart(what: str, options: argparse.Namespace) -> dict[str, Any]:
    """One engine, or one number of threads, measured in a fresh process."""
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in vars(options).items() if value is not None]
    answer: dict[str, Any] = in_a_fresh_process("benchmarks.wallclock", *arguments, f"--only={what}")
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--publish-every", type=int, default=8)
    parser.add_argument("--weights", choices=("auto", "redis", "object_store"), default="auto")
    parser.add_argument("--bound", type=int, default=16, help="max_staleness")
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only is not None:
        kind, _, threads = options.only.partition("-")
        answer = bare_seconds(int(threads), options) if kind == "bare" else engine_seconds(kind, options)
        print(json.dumps(answer))
        return
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        options.out = Path(folder)
        limits, ratios = [], []
        for turn in range(options.rounds):
            bare = {n: apart(f"bare-{n}", options)["seconds"] for n in (1, cores())}
            limits.append(cores() * bare[cores()] / bare[1])
            order = ("sync", "ray") if turn % 2 == 0 else ("ray", "sync")
            took = {engine: apart(engine, options) for engine in order}
            ratios.append(took["sync"]["seconds"] / took["ray"]["seconds"])
            print(
                f"round {turn + 1}: sync {took['sync']['seconds']:.2f} s, ray {took['ray']['seconds']:.2f} s, "
                f"ratio {ratios[-1]:.3f} (limit {limits[-1]:.2f}), mean staleness {took['ray']['staleness_mean']:.2f}, "
                f"{took['ray']['shards_dropped']} shards dropped",
                flush=True,
            )
    print(
        f"{options.steps} steps of {options.batch_size}: median ratio {statistics.median(ratios):.3f} "
        f"({min(ratios):.3f} to {max(ratios):.3f}), median limit {statistics.median(limits):.2f}"
    )


if __name__ == "__main__":
    main()
