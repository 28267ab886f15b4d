"""What a rolling evaluation takes from training: the saturated trainer's throughput with it and without, in turn.

    python -m benchmarks.rolling --out FOLDER [--rounds 5] [--seconds 30] [--workers 4] [--scale 4] [--numbers 2000000]

The GPU's work is a timed wait (benchmarks/waiting.py), all else is real. An attack on 128 examples takes 8 x 10 ms, a
step 40 ms, both times --scale, so that this machine's cores have time for the rest; two workers saturate the trainer,
which does not attack itself, and four wait half of their time. Of a version 128 examples are judged by apgd-ce. Each
label is safe from the attack, so that a piece makes all its passes on all its 32 examples. Each measurement is a run in
a fresh process, which counts from the moment that all workers have made shards.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import header, in_a_fresh_process, machine, row, spread
from benchmarks.scaling import Row, Window
from benchmarks.waiting import BATCH
from sparring.commands.train import train
from sparring.config import Config, from_tree
from sparring.observe.state import RunState, staleness_summary
from sparring.runs import lines_of

ATTACK_STEP_MS, ATTACK_STEPS, STEP_MS, EXAMPLES, HELD_OUT = 10.0, 8, 40.0, 8192, 512
JUDGED = {"rolling": True, "rolling_samples": 128, "rolling_attacks": ["apgd-ce"]}
Told = dict[str, Any]


def config_of(folder: str, workers: int, scale: float, rolling: bool) -> Config:
    waits = round(1000 * scale * ATTACK_STEP_MS), round(1000 * scale * STEP_MS)
    return from_tree(
        {
            "run": {"root": f"{folder}/runs"},
            "data": {"name": f"npz:{folder}/images", "holdout": HELD_OUT},
            "model": {"name": f"benchmarks.waiting:wait_{waits[0]}_{waits[1]}"},
            "attack": {"epsilon": 8 / 255, "steps": ATTACK_STEPS, "warmup_epochs": 0},
            "optimizer": {"name": "sgd", "lr": 1e-6},
            "train": {"epochs": 2000, "batch_size": BATCH},
            "staleness": {"max_staleness": 6, "depth": 3, "trainer_attacks": "never", "gap_every": 0},
            "workers": {"count": workers, "threads": 1, "start_timeout_s": 600.0},
            "trainer": {"threads": 1},
            "ray": {"object_store_mb": 512},
            "checkpoint": {"every_steps": 10**9},
            "metrics": {"every_steps": 1, "enabled": False},
            "evaluation": JUDGED if rolling else {},
        }
    )


def write_safe_images(folder: Path) -> None:
    """Noise, but the pixel that is the label's logit is bright and those of the others are dark."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for split, size in (("train", EXAMPLES), ("test", 16)):
        images, labels = random.integers(0, 256, (size, 32, 32, 3), np.uint8), np.arange(size) % 10
        images[:, 0, :10, 0] = 0
        images[np.arange(size), 0, labels, 0] = 255
        np.savez(folder / f"{split}.npz", images=images, labels=labels)


def measured(folder: str, workers: int, seconds: float, scale: float, rolling: bool) -> Told:
    """Shards a second, staleness, drops, and what was judged, within the window."""
    window = Window(Row("80", workers, (0, 0), seconds, folder))
    beats: dict[str, dict[str, Any]] = {}

    def show(state: RunState, found: dict[str, dict[str, Any]]) -> None:
        beats.update(found)
        window.show(state, found)

    result = train(config_of(folder, workers, scale, rolling), show, window.on_run)
    lines = lines_of(result.run.metrics)
    inside = [line for line in lines if window.began <= line["time"] <= window.ended]
    first, last = inside[0], inside[-1]
    stale = {age: count - first["staleness"].get(age, 0) for age, count in last["staleness"].items()}
    judged = lines_of(result.run.rolling)
    return {
        "rolling": rolling,
        "shards_per_second": (last["examples"] - first["examples"]) / BATCH / (last["time"] - first["time"]),
        "staleness_mean": staleness_summary(stale)[0],
        "dropped": sum(last["dropped"].values()) - sum(first["dropped"].values()),
        "versions": sum(line["complete"] for line in judged),
        "judge_share": sum(beat.get("judge_seconds", 0.0) for beat in beats.values()) / workers / last["seconds"],
        "cores_busy": window.cores_busy,
        "steps": len(inside) - 1,
        "waited": (sum(last["wait_seconds"].values()) - sum(first["wait_seconds"].values()))
        / (last["time"] - first["time"]),
    }


def report(rows: list[Told]) -> str:
    """A line with it and one without, and what it took: the mean over the rounds of pairs."""
    lines = [
        header(
            "rolling",
            "shards/s",
            "mean staleness",
            "dropped",
            "versions judged",
            "workers judge",
            "trainer waits",
            "cores",
        )
    ]
    for rolling in (False, True):
        found = [each for each in rows if each["rolling"] is rolling]
        lines.append(
            row(
                "on" if rolling else "off",
                spread([each["shards_per_second"] for each in found]),
                spread([each["staleness_mean"] for each in found]),
                sum(each["dropped"] for each in found),
                spread([each["versions"] for each in found], ".0f"),
                spread([100 * each["judge_share"] for each in found], ".0f") + " %",
                spread([100 * each["waited"] for each in found]) + " %",
                spread([100 * each["cores_busy"] for each in found], ".0f") + " %",
            )
        )
    off, on = ([each["shards_per_second"] for each in rows if each["rolling"] is which] for which in (False, True))
    lost = [100 * (1 - with_it / without) for without, with_it in zip(off, on, strict=True)]
    return "\n".join([*lines, f"throughput lost: {statistics.mean(lost):.2f} % (rounds: {spread(lost)})"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/rolling"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--scale", type=float, default=4.0)
    parser.add_argument("--numbers", type=int, default=2_000_000, help="weights of the network")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only is not None:
        sys.stdout.write(json.dumps(measured(**json.loads(options.only))) + "\n")
        return
    options.out.mkdir(parents=True, exist_ok=True)
    rows: list[Told] = []
    with tempfile.TemporaryDirectory() as folder:
        write_safe_images(Path(folder) / "images")
        for turn in range(options.rounds):
            for rolling in ((False, True), (True, False))[turn % 2]:
                asked = {
                    "folder": folder,
                    "workers": options.workers,
                    "seconds": options.seconds,
                    "scale": options.scale,
                    "rolling": rolling,
                }
                rows.append(
                    in_a_fresh_process(
                        "benchmarks.rolling", "--only", json.dumps(asked), WAITING_NUMBERS=str(options.numbers)
                    )
                )
                print(f"round {turn + 1}: {rows[-1]}", flush=True)
                (options.out / "rolling.json").write_text(json.dumps({"machine": machine(), "rows": rows}, indent=2))
    print(machine())
    print(report(rows))


if __name__ == "__main__":
    main()
