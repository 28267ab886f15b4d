"""What the points of a study do: train, attack, verify; each a function from a point to plain figures."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparring.config import load
from sparring.errors import SparringError
from sparring.lab.discarding import discarding
from sparring.lab.images import written_once
from sparring.lab.probes import classes_over_time, cycling, embedding, on_the_clock
from sparring.lab.study import Point
from sparring.observe.state import Heartbeats, RunState
from sparring.runs import Run

Figures = dict[str, Any]
SUMMARY = (
    *("clean_accuracy", "robust_accuracy", "ema_robust_accuracy", "samples", "steps", "seconds", "kept", "allocated"),
    *("gradients_per_example", "theoretical_speedup", "fresh_minus_stale", "staleness_mean", "staleness_max"),
    *("overfittings", "rollbacks", "staleness_level", "refresh_steps", "pruning_seconds", "warnings"),
)
MOST_OF_A_SERIES = 60


@dataclass(frozen=True)
class Place:
    """Where a study is made. data: folder of the data sets, as torchvision's files or as NAME-train.npz and
    NAME-test.npz, or NAME/train and NAME/test for folder:NAME; None if each is where it is by default. runs: folder of
    the trained runs, which all machines must have."""

    data: Path | None
    runs: Path

    def with_data(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings with the place of their data."""
        if self.data is None or "data.name" not in settings:
            return dict(settings)
        kind, _, files = str(settings["data.name"]).rpartition(":")
        if kind == "folder":
            return {**settings, "data.name": f"folder:{self._folder_of(self.data, files, settings)}"}
        arrays = self.data / files
        if arrays.with_name(f"{arrays.name}-train.npz").exists():
            return {**settings, "data.name": f"npz:{arrays}"}
        return {**settings, "data.root": str(self.data)}

    def _folder_of(self, data: Path, name: str, settings: Mapping[str, Any]) -> Path:
        """The folder of images of that name; where there are only arrays, their images are written as files once."""
        if (data / name / "train").is_dir():
            return data / name
        limit = settings.get("data.limit")
        arrays = self.with_data({"data.name": name, "data.limit": limit, "data.download": False})
        folder = self.runs / f"images-{name}-{limit or 'all'}"
        written_once(folder, load(None, arrays).data)
        return folder

    def begun(self, point: Point) -> dict[str, Any]:
        """The settings of a point's run, for which there is room now: that of an interrupted attempt is gone."""
        if (folder := self.runs / point.key).exists():
            shutil.rmtree(folder)
        of_run = {"run.root": str(self.runs), "run.name": point.key, "metrics.enabled": False}
        return {**self.with_data(point.settings), **of_run}

    def run_of(self, point: Point) -> Run:
        """The run of a trained point."""
        return Run(self.runs / point.key)


def measure(point: Point, place: Place) -> Figures:
    """Do what a point does.

    Raises:
        SparringError: it cannot be done, or was interrupted.
    """
    return WORK[point.does](point, place)


def trained(point: Point, place: Place) -> Figures:
    """Train with the point's settings; accuracies are those of the evaluation at the end.

    Options: series, names of what metrics.jsonl holds, kept as lists beside the steps.
    """
    from sparring.commands.train import train

    clock = TrainingClock()
    result = train(load(None, place.begun(point)), clock)
    if result.phase != "finished":
        raise SparringError(f"the run {result.run.path} is {result.phase}. Run the study again.")
    figures = {name: result.summary.get(name) for name in SUMMARY} | {
        "training_processor_seconds": clock.seconds,
        "data": result.run.read_object(result.run.data.name).get("fingerprint"),
    }
    return _without_nothing(figures) | _series(result.run, point.options.get("series", ()))


class TrainingClock:
    """Processor seconds of this process in training alone, without the loading before and the evaluation after it.
    It is looked at twice a second."""

    def __init__(self) -> None:
        self._began: float | None = None
        self.seconds = 0.0

    def __call__(self, state: RunState, workers: Heartbeats) -> None:
        if state.phase != "training":
            return
        if self._began is None:
            self._began = time.process_time()
        self.seconds = time.process_time() - self._began


def evaluated(point: Point, place: Place) -> Figures:
    """Attack the run of the one point that is needed, with `settings` of the evaluation."""
    from sparring.commands.evaluate import evaluate_run

    changes = {name: str(value) for name, value in point.settings.items()}
    found = evaluate_run(place.run_of(point.needs[0]), changes)
    names = ("clean_accuracy", "robust_accuracy", "robust_interval", "samples", "attack", "epsilon", "broken_by")
    return _without_nothing({name: found.get(name) for name in (*names, "queries", "warnings")})


def transferred(point: Point, place: Place) -> Figures:
    """The transfer matrix of the runs of all points that are needed; each attacks as it was trained."""
    from sparring.commands.transferring import transfer_runs

    changes = {name: str(value) for name, value in point.settings.items()}
    found = transfer_runs([place.run_of(each) for each in point.needs], changes, as_trained=True)
    return {
        "members": [dict(each.at) for each in point.needs],
        **{name: found[name] for name in ("attacks", "samples", "clean", "accuracy", "interval", "warnings")},
    }


def verified(point: Point, place: Place) -> Figures:
    """Prove test examples of the run of the one point that is needed. Options: epsilon, samples, timeout_s."""
    from sparring.commands.verify import Asked, verify_run

    found = verify_run(place.run_of(point.needs[0]), {}, Asked(**point.options, processes=1))
    return {name: value for name, value in found.items() if name not in ("examples", "journal", "counterexamples")}


def corrupted(point: Point, place: Place) -> Figures:
    """Accuracy of the run of the one point that is needed under common corruptions, with `settings` of the
    evaluation."""
    from sparring.commands.evaluate import corruptions_of_run

    changes = {name: str(value) for name, value in point.settings.items()}
    found = corruptions_of_run(place.run_of(point.needs[0]), changes)
    names = ("source", "samples", "clean_accuracy", "corrupted_accuracy", "corrupted_interval", "warnings")
    by_name = {each["corruption"]: each["mean_accuracy"] for each in found["corruptions"]}
    return _without_nothing({**{name: found.get(name) for name in names}, "by_corruption": by_name})


def _series(run: Run, names: Iterable[str]) -> Figures:
    """Series of metrics.jsonl, thinned to evenly spaced lines: the steps, and each name's values."""
    names = list(names)
    if not names:
        return {}
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    every = max(1, -(-len(lines) // MOST_OF_A_SERIES))
    kept = lines[::-1][::every][::-1]
    return {"series": {name: [line.get(name) for line in kept] for name in ("step", *names)}}


def _without_nothing(figures: Mapping[str, Any]) -> Figures:
    return {name: value for name, value in figures.items() if value not in (None, [], {})}


WORK: dict[str, Callable[[Point, Place], Figures]] = {
    "train": trained,
    "evaluate": evaluated,
    "transfer": transferred,
    "verify": verified,
    "corrupt": corrupted,
    "classes": classes_over_time,
    "cycle": cycling,
    "embed": embedding,
    "clock": on_the_clock,
    "discard": discarding,
}
