"""The rows that the charts of a report show, as plain values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from sparring.observe.state import RunState
from sparring.report.figures import OfClass, Point
from sparring.report.records import Records

Row = dict[str, Any]
Along = Literal["epsilon", "steps"]
ALONG = {"step": "steps", "examples": "examples trained on", "seconds": "seconds of training"}
ACCURACIES = {
    "train_robust_accuracy": "training examples, attacked",
    "robust_accuracy": "held-out examples, attacked",
    "clean_accuracy": "held-out examples, clean",
}
ROLLING = "held-out examples, AutoAttack"
LOSS = {"loss": "training loss"}
GAP = {"fresh_minus_stale": "fresh minus stale"}
WAITS = {
    "first_shard": "waits for the first shard",
    "shards": "waits for shards of workers",
    "snapshot": "waits until weights are copied",
}
UNBOUNDED = 2.5  # times the trained ε: radii beyond are in the table, not in the chart


def over_time(runs: Sequence[Records], fields: Mapping[str, str]) -> list[Row]:
    """A row per run, line of its history and field that was measured; `measure` is what the field is called."""
    return [
        {"run": records.name, "measure": said, "value": value, **_where(state)}
        for records in runs
        for field, said in fields.items()
        for state in records.history
        if (value := getattr(state, field)) is not None and math.isfinite(value)
    ]


def judged(runs: Sequence[Records]) -> list[Row]:
    """A row per version that a rolling evaluation has judged, where its weights were trained, not where the figure was
    known."""
    return [
        {"run": records.name, "measure": ROLLING, "value": value, **_where(trained)}
        for records in runs
        for version, value in {state.rolling_version: state.rolling_accuracy for state in records.history}.items()
        if value is not None
        and (trained := next((state for state in records.history if state.step >= version), None)) is not None
    ]


def _where(state: RunState) -> Row:
    return {"step": state.step, "examples": state.examples, "seconds": round(state.seconds, 2)}


def staleness(runs: Sequence[Records]) -> list[Row]:
    """A row per run and staleness: shards that were trained on at it, from 0 to the bound or the highest."""
    rows = []
    for records in runs:
        counts = {int(steps): count for steps, count in records.state.staleness.items()}
        total = sum(counts.values())
        for steps in range(max([*counts, records.state.max_staleness]) + 1) if total else ():
            count = counts.get(steps, 0)
            row = {"run": records.name, "staleness": steps, "shards": count, "share": count / total}
            rows.append({**row, "bound": records.state.max_staleness})
    return rows


def throughput(runs: Sequence[Records]) -> list[Row]:
    """Examples per second between two lines of a run's history."""
    return [
        {"run": records.name, "measure": "examples per second", "value": (to.examples - at.examples) / passed}
        | _where(to)
        for records in runs
        for at, to in pairwise(records.history)
        if (passed := to.seconds - at.seconds) > 0 and to.examples >= at.examples
    ]


class Waiting(NamedTuple):
    """Seconds of one process, or of all workers together, and what they went to."""

    who: str
    what: str
    seconds: float


def waiting(records: Records) -> list[Waiting]:
    """Where the seconds of the trainer and of the workers went, as far as the records say.

    What the workers did besides attacks is only known where all shards are theirs, and their number did not change.
    """
    state = records.state
    if not state.seconds:
        return []
    found = [Waiting("trainer", "training steps", state.step_seconds)]
    found += [Waiting("trainer", WAITS.get(name, f"waits: {name}"), each) for name, each in state.wait_seconds.items()]
    rest = state.seconds - sum(each.seconds for each in found)
    attacks_here = bool(state.attack_seconds) and not state.worker_shards
    if attacks_here:
        found.append(Waiting("trainer", "attacks", state.attack_seconds))
        rest -= state.attack_seconds
    found.append(Waiting("trainer", "other work", max(0.0, rest)))
    if state.attack_seconds and not attacks_here:
        found += _of_workers(state)
    return [each for each in found if each.seconds > 0]


def _of_workers(state: RunState) -> Iterator[Waiting]:
    yield Waiting("workers", "attacks", state.attack_seconds)
    if not state.trainer_shards and state.workers_wanted:
        rest = state.workers_wanted * state.seconds - state.attack_seconds
        yield Waiting("workers", "waits, receiving and sending", max(0.0, rest))


def waited(runs: Sequence[Records]) -> list[Row]:
    """The rows of `waiting`, with the share of each process' time."""
    rows = []
    for records in runs:
        found = waiting(records)
        for each in found:
            total = sum(other.seconds for other in found if other.who == each.who)
            who = each.who if len(runs) == 1 else f"{each.who}, {records.name}"
            row = {"run": records.name, "who": who, "what": each.what, "seconds": round(each.seconds, 2)}
            rows.append({**row, "share": each.seconds / total})
    return rows


def allocated(records: Records) -> list[Row]:
    """The share of each of the allocator's classes among the examples between two lines of the history."""
    rows = []
    states = [RunState(), *records.history]
    for at, to in pairwise(states):
        counts = {name: to.allocated[name] - at.allocated.get(name, 0) for name in to.allocated}
        total = sum(counts.values())
        for name, count in counts.items() if total > 0 else ():
            row = {"run": records.name, "class": name, "examples": count, "share": max(0, count) / total}
            rows.append({**row, "step": to.step})
    return rows


def points(runs: Sequence[Records], along: Along) -> list[Row]:
    """Robust accuracy with its interval along ε or steps, from curves.json."""
    rows = []
    for records in runs:
        curves = records.curves
        for point in [] if curves is None else curves.by_epsilon if along == "epsilon" else curves.by_steps:
            at = point.epsilon if along == "epsilon" else point.steps
            row = {"run": records.name, "at": at, "attack": point.attack, **_with_interval(point)}
            rows.append({**row, "samples": curves.samples if curves else 0})
    return rows


def within_reach(rows: Sequence[Row], runs: Sequence[Records]) -> list[Row]:
    """Rows of `points` along ε without the ball that reaches every image, which would squeeze the others."""
    largest = max((records.curves.trained_epsilon for records in runs if records.curves), default=0.0)
    return [row for row in rows if row["at"] <= UNBOUNDED * largest]


def by_class(runs: Sequence[Records]) -> list[Row]:
    """Accuracies of each class, from evaluation.json."""
    return [
        {"run": records.name, "class": str(each.label), "samples": each.samples, "clean": each.clean_accuracy}
        | _with_interval(each)
        for records in runs
        for each in (records.evaluation.by_class if records.evaluation else ())
    ]


def _with_interval(found: Point | OfClass) -> Row:
    low, high = found.robust_interval
    return {"value": found.robust_accuracy, "low": low, "high": high}
