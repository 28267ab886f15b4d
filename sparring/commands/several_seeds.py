"""The same recipe with several seeds, one run after the other; mean and range of the accuracies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from sparring.commands.train import train
from sparring.config import Config, overridden
from sparring.errors import UsageError
from sparring.observe.report import percent

FIGURES = ("clean_accuracy", "robust_accuracy", "seconds")


@dataclass(frozen=True)
class Trained:
    """Summaries of the runs that were made, each with its seed, phase and folder."""

    runs: list[dict[str, Any]]

    @property
    def interrupted(self) -> bool:
        """The last run was interrupted; those after it were not begun."""
        return bool(self.runs[-1]["phase"] == "interrupted")

    def totals(self) -> dict[str, dict[str, float]]:
        """Mean, least and greatest value of each figure over the finished runs."""
        found = {name: [run[name] for run in self.runs if run["phase"] == "finished"] for name in FIGURES}
        return {name: {"mean": mean(each), "min": min(each), "max": max(each)} for name, each in found.items() if each}

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {"runs": self.runs, "figures": self.totals()}

    @property
    def warnings(self) -> list[str]:
        """Those of all runs, each once, with the seeds that it is of."""
        seeds: dict[str, list[str]] = {}
        for run in self.runs:
            for warning in run.get("warnings", ()):
                seeds.setdefault(warning, []).append(str(run["seed"]))
        return [f"seed {', '.join(each)}: {warning}" for warning, each in seeds.items()]

    def rows(self) -> list[dict[str, object]]:
        """One table row per run, then mean, least and greatest."""
        rows: list[dict[str, object]] = [_row(str(run["seed"]), run) for run in self.runs]
        totals = self.totals()
        ends = ("mean", "min", "max") if totals else ()
        return rows + [_row(end, {name: each[end] for name, each in totals.items()}) for end in ends]


def _row(title: str, figures: dict[str, Any]) -> dict[str, object]:
    return {
        "seed": title,
        "clean": percent(figures["clean_accuracy"]),
        "robust": percent(figures["robust_accuracy"]),
        "attack": figures.get("attack"),
        "samples": figures.get("samples"),
        "seconds": round(figures["seconds"], 1),
        "phase": figures.get("phase"),
    }


def numbers_of(seeds: str) -> list[int]:
    """The numbers of `0,1,2`.

    Raises:
        UsageError: there is none, or one of them twice.
    """
    try:
        numbers = [int(each) for each in seeds.split(",")]
    except ValueError as error:
        raise UsageError(f"--seeds {seeds}: whole numbers are needed, such as --seeds 0 1 2.") from error
    if len(set(numbers)) < len(numbers):
        raise UsageError(f"--seeds {seeds.replace(',', ' ')}: a seed stands there twice.")
    return numbers


def train_with_seeds(config: Config, seeds: Sequence[int], progress: Callable[[str], Any]) -> Trained:
    """Train once for each seed; an interrupted run is the last. A run's name gets the seed appended.

    Args:
        progress: gives what makes the live view for a title: a context with `update`.
    """
    runs = []
    for seed in seeds:
        name = None if config.run.name is None else f"{config.run.name}-seed-{seed}"
        with progress(f"seed {seed}")() as view:
            result = train(overridden(config, {"train.seed": seed, "run.name": name}), view.update)
        runs.append({"seed": seed, "phase": result.phase, "run": str(result.run.path), **result.summary})
        if result.phase == "interrupted":
            break
    return Trained(runs)
