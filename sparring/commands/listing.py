"""The runs of a folder with their method and figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparring.commands.control import status_from_folder
from sparring.errors import UsageError
from sparring.observe.report import percent
from sparring.runs import Run

FROM_STATE = ("phase", "engine", "dataset", "method", "step", "total_steps", "seconds")
FROM_SUMMARY = ("clean_accuracy", "robust_accuracy", "robust_interval", "attack", "samples")


def list_runs(folder: Path) -> list[dict[str, Any]]:
    """The runs in `folder`, the oldest first. Figures that were not measured are None.

    Raises:
        UsageError: there is no such folder.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: there is no such folder. Give the folder that holds the runs (run.root).")
    paths = [path for path in folder.iterdir() if (path / "config.toml").is_file()]
    return [_listed(Run(path)) for path in sorted(paths, key=lambda path: (path / "environment.json").stat().st_mtime)]


def _listed(run: Run) -> dict[str, Any]:
    status, summary = status_from_folder(run), run.read_json("summary.json") or {}
    state = {name: status.get(name) for name in FROM_STATE}
    return {"run": run.path.name, **state, **{name: summary.get(name) for name in FROM_SUMMARY}}


def rows_of(found: Sequence[dict[str, Any]]) -> list[dict[str, object]]:
    """One table row per run."""
    return [
        {
            "run": each["run"],
            "phase": each["phase"],
            "method": each["method"],
            "steps": f"{each['step']}/{each['total_steps']}",
            "clean": percent(each["clean_accuracy"]),
            "robust": _with_interval(each),
            "attack": each["attack"],
            "samples": each["samples"] or None,
        }
        for each in found
    ]


def _with_interval(listed: dict[str, Any]) -> str:
    if listed["robust_interval"] is None:
        return percent(listed["robust_accuracy"])
    low, high = (100 * end for end in listed["robust_interval"])
    return f"{percent(listed['robust_accuracy'])} ({low:.1f} to {high:.1f})"
