"""Does `sparring explain --devices` predict what the virtual engine takes? 36 settings, drawn at random.

    python -m benchmarks.splits [--settings 36] [--out FILE]

The handwritten digits and a small network, since only the clock matters. For each setting the proposed split is trained
by the virtual engine to its end, and its seconds are compared with the prediction, which is made from 24 steps of the
clock alone. For the verdict, data parallelism of all steps on the clock is compared with the seconds of the engine.
FILE has a line of JSON for each setting; what is there is not made again.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measure import header, machine, row
from sparring.commands.splits import TIE, best_split, split_of
from sparring.config import Config, from_tree, overridden
from sparring.engines.virtual.rivals import data_parallel, slices
from sparring.trainer.experiment import build_experiment

Found = dict[str, Any]
RECORDS = Path(__file__).parent / "records" / "splits.jsonl"
BAR = 0.05


def setting(number: int) -> tuple[Config, int]:
    """A recipe with its times, and a number of devices."""
    draw = random.Random(number)
    batch, steps = draw.choice([32, 64, 128]), draw.randint(3, 10)
    constant, per_batch = draw.choice([0.0, 0.2, 0.5]), draw.uniform(0.002, 0.02)
    latency, ratio = draw.choice([1e-4, 5e-4, 2e-3]), draw.uniform(0.5, 2.0)
    finish = draw.choice(["off", "auto", str(max(1, steps // 4))])
    times = {
        "attack_s": constant * per_batch,
        "attack_example_s": (1 - constant) * per_batch / batch,
        "step_s": constant * per_batch * ratio,
        "step_example_s": (1 - constant) * per_batch * ratio / batch,
        "publish_s": latency,
        "push_s": latency,
        "message_s": draw.choice([1e-5, 1e-4]),
        "jitter": draw.choice([0.0, 0.05, 0.2]),
    }
    tree = {
        "engine": "virtual",
        "data": {"limit": 1408},
        "attack": {"steps": steps},
        "train": {"batch_size": batch, "epochs": max(2, batch // 16)},
        "staleness": {"finish": int(finish) if finish.isdecimal() else finish, "gap_every": 0},
        "virtual": times,
        "evaluation": {"steps": 1, "restarts": 1, "samples": 10},
        "metrics": {"enabled": False},
        "trainer": {"threads": 1},
    }
    return from_tree(tree), draw.choice([2, 3, 4, 6, 8, 12, 16])


def measured(number: int) -> Found:
    """The prediction, and what the engine takes."""
    from sparring.commands.train import train

    config, devices = setting(number)
    experiment = build_experiment(config)
    size_bytes = 4 * sum(each.numel() for each in experiment.model.parameters())
    split = best_split(config, experiment.plan, devices, size_bytes)
    with tempfile.TemporaryDirectory() as folder:
        run = overridden(split_of(config, split.trainers, split.workers, split.shards_per_step), {"run.root": folder})
        summary = train(run, progress=False).summary
    batch = [slices(config.train.batch_size, devices, config.attack.steps)]
    ddp_s = data_parallel(config, batch * experiment.plan.total_steps, size_bytes=size_bytes)[-1]
    return {
        **asdict(split),
        "number": number,
        "finish": config.staleness.finish,
        "measured_seconds": summary["seconds"],
        "measured_staleness": summary["staleness_mean"],
        "measured_ddp_seconds": ddp_s,
    }


def verdict_holds(found: Found) -> bool | None:
    """Whether the faster engine was named; None where both differ by at most 5 %."""
    ours, ddp = found["measured_seconds"], found["measured_ddp_seconds"]
    if max(ours, ddp) <= TIE * min(ours, ddp):
        return None
    return bool((ddp < ours) == (found["ddp_seconds"] <= TIE * found["seconds"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", type=int, default=36)
    parser.add_argument("--out", type=Path, default=RECORDS)
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    known = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    print(machine(), flush=True)
    for number in range(len(known), options.settings):
        known.append(measured(number))
        with options.out.open("a") as file:
            file.write(json.dumps(known[-1]) + "\n")
        print(f"{number}: {known[-1]}", flush=True)
    print(header("setting", "finish", "devices", "split", "predicted, s", "engine, s", "error", "staleness", "DDP, s"))
    for found in known:
        error = found["seconds"] / found["measured_seconds"] - 1
        print(
            row(
                found["number"],
                found["finish"],
                found["devices"],
                f"{found['trainers']} + {found['workers']}, {found['shards_per_step']} shards",
                f"{found['seconds']:.3f}",
                f"{found['measured_seconds']:.3f}",
                f"{100 * error:+.1f} %",
                f"{found['staleness']:.2f} / {found['measured_staleness']:.2f}",
                f"{found['measured_ddp_seconds']:.3f}",
            )
        )
    errors = [abs(found["seconds"] / found["measured_seconds"] - 1) for found in known]
    verdicts = [holds for found in known if (holds := verdict_holds(found)) is not None]
    print(f"\nwithin 5 %: {sum(error <= BAR for error in errors)} of {len(errors)}, worst {100 * max(errors):.1f} %")
    print(f"verdict right: {sum(verdicts)} of {len(verdicts)} that differ by more than 5 %")


if __name__ == "__main__":
    main()
