"""Speed records: how soon a recipe makes a network that holds a target on two cores. The rules: lab/records/README.md.

    python -m benchmarks.record lab/records/mnist-84/NAME --data DIR [--seeds 10] [--beside lab/records/mnist-84/OLDER]

The folder has the recipe as `recipe.toml`. It is trained with each seed, in turn with the older record's, and judged by
the rules of the folder above it (`rules.toml`), whatever its own evaluation says. Of each run `log.jsonl` keeps a line;
runs that are there are not made again, but those of an older record beside it always belong to the same call.
`record.json` has the mean time, the mean robust accuracy, and the p of a one-sided t-test that the mean meets the
target. A recipe with a moving average (train.ema) is judged by that.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.measure import header, machine, row, spread
from sparring.config import Config, load, overridden
from sparring.errors import UsageError
from sparring.lab.work import Place
from sparring.machine.threads import cores
from sparring.runs import append, lines_of, write_atomically

RECIPE, RULES, LOG, RECORD = "recipe.toml", "rules.toml", "log.jsonl", "record.json"
SURE = 0.01
FEWEST = 10  # seeds of a record


def config_of(folder: Path, rules: dict[str, Any], seed: int, data: Path, out: Path) -> Config:
    """The recipe of a record with a seed, and with the judge of the rules."""
    fixed = {
        "train.seed": seed,
        "run.root": str(out),
        "run.name": f"{folder.name}-{seed}",
        "data.download": False,
        "metrics.enabled": False,
    }
    found = load(folder / RECIPE)
    for name, value in rules["settings"].items():
        group, _, key = name.partition(".")
        if getattr(getattr(found, group), key) != value:
            raise UsageError(f"{folder / RECIPE}: {name} is fixed by the rules as {value!r}.")
    if found.model.checkpoint is not None or found.model.pretrained:
        raise UsageError(f"{folder / RECIPE}: a record starts from random weights.")
    judge = {f"evaluation.{name}": value for name, value in rules["judge"].items()}
    where = Place(data, out).with_data({"data.name": found.data.name})
    return overridden(found, {**judge, **fixed, **where})


def run_once(folder: Path, rules: dict[str, Any], seed: int, data: Path) -> dict[str, Any]:
    """Train and judge: the line of the log."""
    from sparring.commands.train import train

    with tempfile.TemporaryDirectory() as out:
        config = config_of(folder, rules, seed, data, Path(out))
        summary = train(config, progress=False).summary
    judged = summary["robust_accuracy"] if config.train.ema is None else summary["ema_robust_accuracy"]
    return {
        "seed": seed,
        "recipe": digest_of(folder),
        "seconds": summary["seconds"],
        "robust_accuracy": judged,
        "samples": summary["samples"],
        "attack": summary["attack"],
        "steps": summary["steps"],
        "gradients_per_example": summary["gradients_per_example"],
        "machine": machine(),
    }


def digest_of(folder: Path) -> str:
    """Of the recipe: runs of another one do not count."""
    return hashlib.sha256((folder / RECIPE).read_bytes()).hexdigest()[:16]


def verdict(lines: Sequence[dict[str, Any]], target: float) -> dict[str, Any]:
    """What the runs come to. p: that so high a mean is seen although the true mean is at most the target."""
    from scipy.stats import ttest_1samp

    accuracies, seconds = ([float(line[name]) for line in lines] for name in ("robust_accuracy", "seconds"))
    p = 1.0
    if len(accuracies) > 1 and stdev(accuracies) > 0:
        p = float(ttest_1samp(accuracies, target, alternative="greater").pvalue)
    return {
        "seeds": len(lines),
        "seconds": mean(seconds),
        "seconds_range": [min(seconds), max(seconds)],
        "robust_accuracy": mean(accuracies),
        "robust_range": [min(accuracies), max(accuracies)],
        "target": target,
        "p": p,
        "holds": p < SURE and len(lines) >= FEWEST,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=FEWEST)
    parser.add_argument("--beside", type=Path, nargs="*", default=[])
    options = parser.parse_args()
    rules = tomllib.loads((options.folder.parent / RULES).read_text())
    if cores() != rules["cores"]:
        parser.error(f"the track is for {rules['cores']} cores, and {cores()} are here (taskset -c 0,1 ...)")
    recipe = digest_of(options.folder)
    known = {line["seed"]: line for line in lines_of(options.folder / LOG) if line["recipe"] == recipe}
    for seed in range(options.seeds):
        if seed in known:
            continue
        known[seed] = run_once(options.folder, rules, seed, options.data.resolve())
        for older in options.beside:
            line = run_once(older, rules, seed, options.data.resolve())
            known[seed].setdefault("beside", {})[older.name] = {
                name: line[name] for name in ("seconds", "robust_accuracy")
            }
        append(options.folder / LOG, json.dumps(known[seed]))
        print(f"seed {seed}: {known[seed]['seconds']:.1f} s, {known[seed]['robust_accuracy']:.3f}", file=sys.stderr)
    lines = [known[seed] for seed in sorted(known)]
    found = verdict(lines, float(rules["target"])) | {"machine": lines[-1]["machine"], "beside": compared(lines)}
    found["record"] = found["holds"] and any(
        each["seeds"] >= FEWEST and each["ratio"] > 1 for each in found["beside"].values()
    )
    write_atomically(options.folder / RECORD, json.dumps(found, indent=2) + "\n")
    print(header("record", "seconds", "robust accuracy", "seeds", "p", "holds"))
    shown = [
        spread([line[name] for line in lines], form) for name, form in (("seconds", ".1f"), ("robust_accuracy", ".3f"))
    ]
    print(row(options.folder.name, *shown, len(lines), f"{found['p']:.2g}", found["holds"]))
    for name, ratio in found["beside"].items():
        print(f"{ratio['ratio']:.2f} times as fast as {name} over {ratio['seeds']} seeds, each pair back to back")


def compared(lines: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Each older record that ran beside: the mean of the ratios of seconds, seed by seed."""
    found: dict[str, dict[str, float]] = {}
    for name in sorted({name for line in lines for name in line.get("beside", {})}):
        pairs = [(line["beside"][name]["seconds"], line["seconds"]) for line in lines if name in line.get("beside", {})]
        found[name] = {"ratio": mean(old / new for old, new in pairs), "seeds": len(pairs)}
    return found


if __name__ == "__main__":
    main()
