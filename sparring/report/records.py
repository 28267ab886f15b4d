"""The records of a run as a report reads them. What is not there, or damaged, is a remark and never an error."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from sparring.config import Config, config_of, flatten
from sparring.errors import SparringError
from sparring.observe.state import RunState
from sparring.report.figures import Curves, Figures, of_average
from sparring.runs import Run, lines_of

MOST_LINES = 240  # of metrics.jsonl in a chart
ENDED = ("finished", "incomplete")
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Records:
    """What the folder of a run holds. `name` tells it apart from the other runs of the report.

    config: None where it cannot be read; settings: by dotted name. history: lines of metrics.jsonl, in the order of
    steps and without what a return to a checkpoint has undone, at most MOST_LINES. shards: trained on, by who attacked
    them. figures, average: at the end of training, of the weights and of their average; evaluation: of the last
    `sparring evaluate`. remarks: what is missing.
    """

    name: str
    run: Run
    config: Config | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    recipe: str = ""
    state: RunState = field(default_factory=RunState)
    summary: dict[str, Any] = field(default_factory=dict)
    history: tuple[RunState, ...] = ()
    shards: Counter[str] = field(default_factory=Counter)
    figures: Figures | None = None
    average: Figures | None = None
    evaluation: Figures | None = None
    curves: Curves | None = None
    environment: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    phases: tuple[Any, ...] = ()
    sources: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def read_records(run: Run, name: str) -> Records:
    """Everything that a report needs of a run."""
    remarks: list[str] = []
    config = _config(run, remarks)
    state = _state(run, remarks)
    summary = _object(run, "summary.json", remarks)
    history = tuple(_thinned(_forward(_states(run))))
    if not summary:
        remarks.append("There is no summary.json: the run has not ended, or it failed before its first step.")
    if not history:
        remarks.append("metrics.jsonl has no lines: there is nothing to draw against steps.")
    if state.phase not in ENDED:
        remarks.append(f"The run has not finished: its last phase is {state.phase!r}. {state.message}".strip())
    phases = _read(run, "phases.json", remarks)
    return Records(
        name=name,
        run=run,
        config=config,
        settings={} if config is None else flatten(config),
        recipe=_text(run),
        state=state,
        summary=summary,
        history=history,
        shards=_shards(run),
        figures=_parsed(Figures, summary, "summary.json", remarks),
        average=_parsed(Figures, of_average(summary), "summary.json", remarks),
        evaluation=_parsed(Figures, _object(run, "evaluation.json", remarks), "evaluation.json", remarks),
        curves=_parsed(Curves, _object(run, "curves.json", remarks), "curves.json", remarks),
        environment=_object(run, "environment.json", remarks),
        data=_object(run, "data.json", remarks),
        phases=tuple(phases) if isinstance(phases, list) else (),
        sources=tuple(_object(run, run.sources.name, remarks)),
        remarks=tuple(remarks),
    )


def _config(run: Run, remarks: list[str]) -> Config | None:
    try:
        return config_of(run)
    except SparringError as error:
        remarks.append(f"config.toml cannot be read as this version's settings: {error}")
        return None


def _text(run: Run) -> str:
    try:
        return run.config_file.read_text(errors="replace")
    except OSError:
        return ""


def _read(run: Run, name: str, remarks: list[str]) -> Any:
    try:
        return run.read_json(name)
    except SparringError as error:
        remarks.append(str(error))
        return None


def _object(run: Run, name: str, remarks: list[str]) -> dict[str, Any]:
    found = _read(run, name, remarks)
    if found is None or isinstance(found, dict):
        return found or {}
    remarks.append(f"{name} holds no such record, and is left out.")
    return {}


def _parsed(kind: type[M], found: dict[str, Any], name: str, remarks: list[str]) -> M | None:
    """The content of a file as a value; None where there is no file, or one that lacks something."""
    if not found:
        return None
    try:
        return kind.model_validate({key: value for key, value in found.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        remarks.append(f"{name} is left out: {'.'.join(map(str, first['loc']))}: {first['msg']}.")
        return None


def _state(run: Run, remarks: list[str]) -> RunState:
    """The last state; of a run whose process is gone the phase `died`."""
    found = _object(run, "state.json", remarks)
    try:
        state = RunState.from_dict(found)
    except ValueError as error:
        remarks.append(f"state.json is damaged: {error}")
        return RunState(phase="unknown")
    if state.phase in ("starting", "training", "evaluating") and not run.is_alive():
        state.phase = "died"
    return state


def _states(run: Run) -> Iterator[RunState]:
    for line in lines_of(run.metrics):
        try:
            yield RunState.from_dict(line)
        except ValueError:  # cut short by a process that died, or written by an older version
            continue


def _forward(states: Iterator[RunState]) -> list[RunState]:
    """One state per step. After a return to a checkpoint the later lines count."""
    kept: list[RunState] = []
    for state in states:
        while kept and kept[-1].step >= state.step:
            kept.pop()
        kept.append(state)
    return kept


def _thinned(states: Sequence[RunState]) -> list[RunState]:
    """At most MOST_LINES of them, evenly spaced, with the last one."""
    if len(states) <= MOST_LINES:
        return list(states)
    return [states[(number + 1) * len(states) // MOST_LINES - 1] for number in range(MOST_LINES)]


def _shards(run: Run) -> Counter[str]:
    """Shards trained on, by worker; of a step that was made twice the last line counts."""
    by_step: dict[Any, Any] = {}
    try:
        with run.history.open(errors="replace") as file:
            for line in file:
                found = _line(line)
                by_step[found.get("step")] = found.get("workers")
    except OSError:
        return Counter()
    listed = (workers for workers in by_step.values() if isinstance(workers, list))
    return Counter(str(worker) for workers in listed for worker in workers if worker)


def _line(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
