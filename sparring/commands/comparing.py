"""Comparing runs on the same test examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sparring.commands.evaluate import names_of, open_judged, require_different
from sparring.commands.judging import BY_DEFAULT, Judged, Progress, judged, panel_of
from sparring.errors import UsageError
from sparring.evaluation.paired import compared
from sparring.runs import Run

COMPARED = ("attack", "version", "attacks", "mode", "steps", "step_size", "restarts", "samples", "draw")


def compare_runs(
    runs: Sequence[Run], changes: dict[str, str], *, best: bool = False, progress: Progress | None = None
) -> dict[str, Any]:
    """The runs' figures on the same examples under the same attack, and each pair of runs by McNemar's test.

    Verdicts that a run's folder holds are used, as by `evaluate_run`.

    Raises:
        UsageError: fewer than two runs, one given twice, or runs of different data, balls or attacks.
        SparringError: as `open_trained`.
    """
    require_different(runs, "compare")
    names, opened = names_of(runs), [open_judged(run, changes, best=best) for run in runs]
    for name, (_, what) in zip(names[1:], opened[1:], strict=True):
        _require_alike(names[0], opened[0][1], name, what)
    figures, robust = [], []
    for name, (made, what) in zip(names, opened, strict=True):
        found, judgement, _ = judged(what, BY_DEFAULT, None if progress is None else _named(name, progress))
        figures.append({"run": name, **made.figures(found.as_dict())})
        robust.append(judgement.outcomes.robust)
    pairs = [asdict(pair) for pair in compared(names, robust)]
    warnings = [f"{each['run']}: {warning}" for each in figures for warning in each["warnings"]]
    beside = {name: figures[0][name] for name in ("attack", "samples", "drawn")}
    return {**beside, "runs": figures, "pairs": pairs, "warnings": warnings}


def _named(name: str, progress: Progress) -> Progress:
    return lambda text: progress(f"{name}: {text}")


def _require_alike(first: str, one: Judged, second: str, other: Judged) -> None:
    of_one, of_other = (
        {
            "data.name": (what.config.data.name, what.test.fingerprint),
            "attack.norm": (what.threat.norm,),
            "attack.epsilon": (what.threat.epsilon,),
            **{f"evaluation.{name}": (getattr(what.config.evaluation, name),) for name in COMPARED},
            "attack.name": (what.config.attack.name, _panel(what)),
        }
        for what in (one, other)
    )
    for name, value in of_one.items():
        if value != of_other[name]:
            changed = f"--{name}, or " if name.startswith("evaluation.") or name == "attack.epsilon" else ""
            raise UsageError(
                f"{name} = {value[0]!r} in {first} and {of_other[name][0]!r} in {second}: runs are compared on the "
                f"same test examples under the same attack. Give {changed}runs that agree in it."
            )


def _panel(what: Judged) -> tuple[object, ...]:
    """All that the attacks depend on but their random numbers, which the seed of a run's own training gives."""
    panel = panel_of(what.config, what.threat, what.test)
    return panel.names, {name: value for name, value in panel.identity.items() if name != "seed"}
