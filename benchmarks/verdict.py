"""Is the engine that `sparring explain` names the fastest? 20 recipes, measured on this machine.

    python -m benchmarks.verdict --data DIR [--out FILE] [--settings N ...] [--quick]

For each setting `explain`'s verdict, then two short runs of each engine that it compared, each in a process of its
own, in the order A B C C B A: what a machine gains or loses in a minute then weighs on all of them alike. A short
run's start is timed from the call of `train`, and its pace over the last 60 % of the steps; the whole run takes the
start and its shards at that pace. The verdict is right if the engine that it names takes at most 5 % longer than the
fastest. FILE has a line of JSON for each setting. What is there is not measured again: the verdict is drawn anew from
the times that `explain` had measured. The constants of `sparring.commands.verdict` are calibrated on every second
setting (`CALIBRATED`); the others check them. The machine must have nothing else to do: some 30 minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import ceil
from pathlib import Path
from statistics import fmean, harmonic_mean
from typing import Any

from benchmarks.measure import header, in_a_fresh_process, machine, row
from sparring.commands.calibration import Measured
from sparring.commands.calibration import measure as calibrate
from sparring.commands.explain import predict
from sparring.commands.train import train
from sparring.commands.verdict import Choice, best_of, choices
from sparring.config import Config, from_tree, overridden
from sparring.trainer.experiment import build_experiment
from sparring.trainer.plan import Plan

RECORDS = Path(__file__).parent / "records" / "verdict.jsonl"
RUN_S, LEAST_STEPS, LINES = 5.0, 12, 40  # training of a short run at the expected pace; lines of its metrics
RIGHT = 1.05  # a verdict may cost so much against the fastest engine
WARM_UP = 0.4  # share of the steps, while workers come
Setting = tuple[str, str, str, int, int, int, int]  # data, network, method, attack steps, batch, shards a step, epochs
Record = dict[str, Any]
SMALL, LARGE = "mnist-16-32-100", "mnist-32-64-1024"
SETTINGS: tuple[Setting, ...] = (
    ("digits", "digits-cnn", "fgsm", 1, 64, 1, 30),
    ("digits", "digits-cnn", "pgd", 3, 64, 1, 100),
    ("digits", "digits-cnn", "pgd", 10, 16, 4, 100),
    ("digits", "digits-cnn", "pgd", 20, 16, 1, 100),
    ("digits", "digits-cnn", "trades", 10, 32, 2, 200),
    ("digits", "digits-cnn", "pgd", 10, 8, 4, 200),
    ("digits", "digits-cnn", "pgd", 10, 128, 2, 400),
    ("digits", "digits-cnn", "bullettrain", 10, 32, 2, 200),
    ("digits", "digits-cnn", "n-fgsm", 1, 16, 2, 200),
    ("digits", "preact-resnet-18", "pgd", 3, 16, 2, 20),
    ("mnist", SMALL, "fgsm", 1, 128, 1, 1),
    ("mnist", SMALL, "pgd", 4, 128, 1, 2),
    ("mnist", SMALL, "pgd", 8, 32, 4, 5),
    ("mnist", SMALL, "pgd", 20, 16, 4, 2),
    ("mnist", SMALL, "trades", 10, 64, 2, 5),
    ("mnist", SMALL, "bullettrain", 10, 128, 1, 2),
    ("mnist", LARGE, "pgd", 3, 64, 2, 5),
    ("mnist", LARGE, "pgd", 10, 128, 1, 10),
    ("mnist", LARGE, "trades", 5, 32, 4, 5),
    ("mnist", SMALL, "n-fgsm", 1, 16, 2, 3),
)
CALIBRATED = range(0, len(SETTINGS), 2)
QUICK = (0,)
METHODS: dict[str, dict[str, Any]] = {
    "fgsm": {"attack": {"name": "fgsm"}},
    "n-fgsm": {"attack": {"name": "n-fgsm"}},
    "pgd": {},
    "trades": {"objective": {"name": "trades"}},
    "bullettrain": {"allocator": {"name": "bullettrain"}},
}


def config_of(setting: Setting, data: Path, out: Path) -> Config:
    """The recipe; its evaluation is as short as can be."""
    name, network, method, steps, batch, shards, epochs = setting
    tree: dict[str, Any] = {
        "run": {"root": str(out)},
        "data": {"name": name, "root": str(data), "download": False},
        "model": {"name": network},
        "attack": {"epsilon": 0.3 if name == "mnist" else 0.2, "steps": steps},
        "train": {"epochs": epochs, "batch_size": batch, "shards_per_step": shards},
        "evaluation": {"samples": 10, "steps": 1, "restarts": 1},
    }
    for group, values in METHODS[method].items():
        tree[group] = {**tree.get(group, {}), **values}
    if method.endswith("fgsm"):
        del tree["attack"]["steps"]
    return from_tree(tree)


def explained(config: Config) -> Record:
    """What `explain` measures, and how many examples the run's plan has."""
    experiment = build_experiment(config)
    return {"measured": asdict(calibrate(experiment)), "examples": experiment.plan.size}


def plan_of(config: Config, examples: int) -> Plan:
    train = config.train
    return Plan(examples, train.batch_size, train.shards_per_step, train.epochs, train.seed)


def measured_of(record: Record) -> Measured:
    return Measured(**{**record["measured"], "shape": tuple(record["measured"]["shape"])})


def compared(record: Record, config: Config) -> list[Choice]:
    """The choices of the verdict, from the times of a record."""
    return choices(config, measured_of(record), plan_of(config, record["examples"]))


def with_engine(config: Config, engine: str, processes: int, steps: int) -> Config:
    """The recipe for so many steps with an engine of so many workers or ranks."""
    changes: dict[str, Any] = {
        "train.max_steps": steps,
        "metrics.every_steps": max(1, steps // LINES),
        "engine": engine,
    }
    setting = {"ray": "workers.count", "ddp": "ddp.ranks"}.get(engine)
    return overridden(config, changes if setting is None else {**changes, setting: processes})


def timed(config: Config) -> Record:
    """A short run: seconds until its first step, shards a second afterwards, mean staleness."""
    began = time.time()
    result = train(config, progress=False)
    lines = [json.loads(line) for line in result.run.metrics.read_text().splitlines()]
    last, of_step = lines[-1], config.train.shards_per_step
    first = next(line for line in lines if line["step"] >= WARM_UP * last["step"])
    pace = (last["step"] - first["step"]) / (last["time"] - first["time"])
    return {
        "start_s": lines[0]["time"] - began - lines[0]["step"] / pace,
        "shards_per_second": pace * of_step,
        "mean_staleness": result.summary["staleness_mean"],
        "steps": last["step"],
    }


def measure(number: int, data: Path) -> Record:
    """A setting's record."""
    record: Record = {"setting": number, "load": os.getloadavg()[0], **_apart(number, data, "explain")}
    config = config_of(SETTINGS[number], data, Path())
    found = compared(record, config)
    runs: dict[str, list[Record]] = {choice.engine: [] for choice in found}
    for choice in [*found, *reversed(found)]:
        steps = max(LEAST_STEPS, ceil(RUN_S * choice.shards_per_second / config.train.shards_per_step))
        run = _apart(number, data, f"{choice.engine}:{choice.processes}:{steps}")
        runs[choice.engine].append({"processes": choice.processes, **run})
    return {**record, "runs": {engine: _mean(both) for engine, both in runs.items()}}


def _mean(runs: Sequence[Record]) -> Record:
    """The mean of each figure. Seconds a shard are what is averaged of a pace."""
    pace = harmonic_mean([run["shards_per_second"] for run in runs])
    means = {name: fmean(run[name] for run in runs) for name in ("start_s", "mean_staleness")}
    return {**runs[0], **means, "shards_per_second": pace}


def _apart(number: int, data: Path, what: str) -> Record:
    found: Record = in_a_fresh_process(
        "benchmarks.verdict", "--data", str(data), "--settings", str(number), "--only", what
    )
    return found


def only(number: int, data: Path, what: str) -> Record:
    """What a process of its own does: `explain`, or a run such as `ray:2:100`, of 100 steps with 2 workers."""
    with tempfile.TemporaryDirectory() as folder:
        config = config_of(SETTINGS[number], data, Path(folder))
        if what == "explain":
            return explained(config)
        engine, processes, steps = what.split(":")
        return timed(with_engine(config, engine, int(processes), int(steps)))


def seconds_of(record: Record, config: Config) -> dict[str, float]:
    """Seconds of the whole run by engine, from the short runs."""
    shards = sum(plan_of(config, record["examples"]).shards_by_epoch)
    return {name: run["start_s"] + shards / run["shards_per_second"] for name, run in record["runs"].items()}


def is_right(named: str, seconds: Mapping[str, float]) -> bool:
    return seconds[named] <= RIGHT * min(seconds.values())


def lines_of(records: Sequence[Record]) -> list[str]:
    """A row for each setting, then the shares."""
    found = [header("setting", "named", "expected, s", "measured, s", "right", "staleness expected, measured")]
    verdicts: dict[int, bool] = {}
    for record in records:
        number, setting = record["setting"], SETTINGS[record["setting"]]
        config = config_of(setting, Path(), Path())
        expected, seconds = compared(record, config), seconds_of(record, config)
        named = best_of(expected)
        verdicts[number] = is_right(named.engine, seconds)
        found.append(
            row(
                " ".join(map(str, setting)),
                named.name,
                ", ".join(f"{choice.engine} {choice.seconds:.0f}" for choice in expected),
                ", ".join(f"{engine} {value:.0f}" for engine, value in seconds.items()),
                "yes" if verdicts[number] else "no",
                _staleness(record, config),
            )
        )
    checked = {number: right for number, right in verdicts.items() if number not in CALIBRATED}
    return [*found, "", f"right: {_share(verdicts)}; of those that were not used to calibrate: {_share(checked)}"]


def _staleness(record: Record, config: Config) -> str:
    run = record["runs"].get("ray")
    if run is None:
        return "-"
    ray = with_engine(config, "ray", run["processes"], run["steps"])
    expected = predict(ray, measured_of(record), plan_of(config, record["examples"]))
    return f"{expected.mean_staleness:.2f}, {run['mean_staleness']:.2f}"


def _share(verdicts: Mapping[int, bool]) -> str:
    return f"{sum(verdicts.values())} of {len(verdicts)}"


def read(path: Path) -> dict[int, Record]:
    lines = path.read_text().splitlines() if path.is_file() else []
    return {record["setting"]: record for record in map(json.loads, lines)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="MNIST in torchvision's layout")
    parser.add_argument("--out", type=Path, default=RECORDS)
    parser.add_argument("--settings", nargs="+", type=int, default=range(len(SETTINGS)))
    parser.add_argument("--quick", action="store_true", help="one setting")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only is not None:
        print(json.dumps(only(options.settings[0], options.data, options.only)))
        return
    print(machine())
    options.out.parent.mkdir(parents=True, exist_ok=True)
    found = read(options.out)
    for number in QUICK if options.quick else options.settings:
        if number not in found:
            found[number] = measure(number, options.data.resolve())
            with options.out.open("a") as file:
                file.write(json.dumps(found[number]) + "\n")
    print("\n".join(lines_of([found[number] for number in sorted(found)])))


if __name__ == "__main__":
    main()
