"""The runs of a folder with their method and figures."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sparring.commands.control import status_from_folder
from sparring.errors import SparringError, UsageError
from sparring.observe.report import percent
from sparring.report.figures import Figures
from sparring.runs import Run

log = logging.getLogger(__name__)
WRITTEN_FIRST = ("config.toml", "environment.json")  # a folder without them is no run
FROM_STATE = ("phase", "engine", "dataset", "method", "step", "total_steps", "seconds")
FROM_SUMMARY = ("clean_accuracy", "robust_accuracy", "robust_interval", "attack", "samples", "warnings")


def list_runs(folder: Path) -> list[dict[str, Any]]:
    """The runs in `folder`, the oldest first. Figures that were not measured are None. A run whose records are damaged
    has the phase "damaged" and says in `error` what is wrong.

    Raises:
        UsageError: there is no such folder.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: there is no such folder. Give the folder that holds the runs (run.root).")
    paths = [path for path in folder.iterdir() if _is_run(path)]
    return [_listed(Run(path)) for path in sorted(paths, key=lambda path: (path / WRITTEN_FIRST[1]).stat().st_mtime)]


def _is_run(path: Path) -> bool:
    """Whether the folder is a run's; of one that may not be looked into, as that of another user, it is only told."""
    try:
        return all((path / name).is_file() for name in WRITTEN_FIRST)
    except PermissionError:
        log.warning("%s may not be read by this user; it is left out", path)
        return False


def _listed(run: Run) -> dict[str, Any]:
    listed: dict[str, Any] = {"run": run.path.name, **dict.fromkeys((*FROM_STATE, *FROM_SUMMARY)), "error": None}
    try:
        status, figures = status_from_folder(run), _figures(run)
    except SparringError as error:
        return listed | {"phase": "damaged", "error": str(error)}
    return listed | {name: status.get(name) for name in FROM_STATE} | figures


def _figures(run: Run) -> dict[str, Any]:
    """What was measured, in the types that it must have."""
    found = run.read_object("summary.json")
    try:
        figures = Figures.model_validate({name: found[name] for name in FROM_SUMMARY if found.get(name) is not None})
    except ValidationError as error:
        first = error.errors()[0]
        raise SparringError(
            f"{run.path / 'summary.json'} is damaged ({'.'.join(map(str, first['loc']))}: {first['msg']}). Delete it, "
            f"or put back a copy of it."
        ) from error
    return {name: getattr(figures, name) for name in FROM_SUMMARY if name in figures.model_fields_set}


def rows_of(found: Sequence[dict[str, Any]]) -> list[dict[str, object]]:
    """One table row per run; the number of warnings, which `sparring report` and --json give in full."""
    return [
        {
            "run": each["run"],
            "phase": each["phase"],
            "method": each["method"],
            "steps": None if each["step"] is None else f"{each['step']}/{each['total_steps']}",
            "clean": percent(each["clean_accuracy"]),
            "robust": _with_interval(each),
            "attack": each["attack"],
            "samples": each["samples"] or None,
            "warnings": len(each.get("warnings") or ()) or None,
        }
        for each in found
    ]


def _with_interval(listed: dict[str, Any]) -> str:
    if listed["robust_interval"] is None:
        return percent(listed["robust_accuracy"])
    low, high = (100 * end for end in listed["robust_interval"])
    return f"{percent(listed['robust_accuracy'])} ({low:.1f} to {high:.1f})"
