"""The virtual cluster beside the real one: throughput and staleness of the same settings, measured and on the clock.

    python -m benchmarks.virtual [--out FILE.json] [--seconds 15] [--cores-per-host 4] [--only NUMBER ...]

Measured is the Ray engine with timed waits as in benchmarks/scaling.py, which says what is real there. The clock gets
the times of the waits, the measured duration of a publication, 5 ms for a shard's way, and how long all workers take to
load the weights at once; it is given nothing else.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measure import header, machine, write_images
from benchmarks.measure import row as line
from benchmarks.scaling import EXAMPLES, LEAST_STEPS, SERIES, STEP_MS, Row, apart, arithmetic_of, slowed, waits_us
from benchmarks.waiting import BATCH
from sparring.commands.calibration import torch_threads
from sparring.config import overridden
from sparring.engines.virtual.clock import clocked
from sparring.engines.virtual.hollow import Work
from sparring.machine.threads import cores
from sparring.machine.timing import median_seconds
from sparring.models.arrays import load_arrays, to_arrays
from sparring.trainer.experiment import build_experiment

PUSH_S, STEPS, WARM_UP = 0.005, 200, 40
SETTINGS = [
    *(("80", workers, attacks) for workers in (1, 2, 4, 8) for attacks in ("always", "never")),
    *(("320", workers, "always") for workers in (2, 4)),
    *(("exchange", 8, attacks) for attacks in ("always", "never")),
    *(("finish", workers, "always") for workers in (2, 4, 8)),
]


def load_s_of(row: Row) -> float:
    """Time in which each worker loads the weights: all do so at once, on the cores of this machine."""
    model = build_experiment(row.config()).model
    arrays = to_arrays(model)
    with torch_threads(1):
        return median_seconds(lambda: load_arrays(model, arrays)) * max(1.0, row.workers / cores())


def on_the_clock(row: Row, publish_s: float, load_s: float) -> dict[str, float]:
    """Shards a second and mean staleness of a row's settings."""
    series, config = SERIES[row.series], row.config()
    times: dict[str, Any] = {
        "engine": "virtual",
        "virtual.attack_example_s": row.slow_down * series.attack_ms / 1000 / series.attack_steps / BATCH,
        "virtual.step_example_s": row.slow_down * STEP_MS / 1000 / BATCH,
        "virtual.publish_s": publish_s,
        "virtual.push_s": PUSH_S,
        "virtual.load_s": load_s,
        "virtual.jitter": 0.05,
    }
    config, of_step = overridden(config, times), config.train.shards_per_step
    run = clocked(config, [Work(BATCH, (BATCH,) * series.attack_steps)] * (STEPS * of_step))
    steps = run.ends[WARM_UP:]
    return {
        "shards_per_second": of_step * (len(steps) - 1) / (steps[-1] - steps[0]),
        "staleness_mean": sum(run.staleness[WARM_UP * of_step :]) / len(run.staleness[WARM_UP * of_step :]),
    }


def row_of(name: str, workers: int, attacks: str, arithmetic: Any, folder: str, options: Any) -> Row:
    """The row of a setting."""
    slow_down, series = slowed(options.cores_per_host, workers + 1), SERIES[name]
    waits = waits_us(name, arithmetic, slow_down)
    of_step, _ = series.sizes(workers)
    step_s = slow_down * of_step * (series.attack_ms + STEP_MS) / 1000 / series.ideal(workers, 1)
    return Row(name, workers, waits, max(options.seconds, LEAST_STEPS * step_s), folder, slow_down, 1, attacks)


def compared(row: Row) -> dict[str, Any]:
    """Measured and predicted."""
    found = apart("run", row)
    load_s = load_s_of(row)
    clock = on_the_clock(row, found["publish_ms"] / 1000, load_s)
    return {
        "load_s": load_s,
        **{name: value for name, value in asdict(row).items() if name != "folder"},
        "measured": found,
        "clock": clock,
        "throughput": clock["shards_per_second"] / found["shards_per_second"] - 1,
        "staleness": clock["staleness_mean"] - found["staleness_mean"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="The virtual cluster beside the real one.")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--cores-per-host", type=float, default=4.0)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of settings")
    options = parser.parse_args()
    print(machine() + "\n")
    print(header("series", "workers", "trainer attacks", "shards/s", "clock", "%", "staleness", "clock", "difference"))
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder) / "images", EXAMPLES)
        chosen = [SETTINGS[number] for number in options.only or range(len(SETTINGS))]
        arithmetic = {name: arithmetic_of(name, folder) for name in {name for name, _, _ in chosen}}
        for name, workers, attacks in chosen:
            found = compared(row_of(name, workers, attacks, arithmetic[name], folder, options))
            rows.append(found)
            real, clock = found["measured"], found["clock"]
            rates = (f"{each['shards_per_second']:.2f}" for each in (real, clock))
            ages = (f"{each['staleness_mean']:.2f}" for each in (real, clock))
            gaps = f"{100 * found['throughput']:+.1f}", f"{found['staleness']:+.2f}"
            print(line(name, workers, attacks, *rates, gaps[0], *ages, gaps[1]), flush=True)
            if options.out is not None:
                options.out.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")
    near = sum(abs(each["throughput"]) <= 0.05 and abs(each["staleness"]) <= 0.3 for each in rows)
    sys.stdout.write(f"\n{near} of {len(rows)} within 5 % and .3 steps\n")


if __name__ == "__main__":
    main()
