"""How a metric is read: from the state of the run, or from the heartbeats of its workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from sparring.observe.state import RunState

Workers = Mapping[str, Mapping[str, Any]]
Labelled = tuple[tuple[str, ...], Any]
Source = Callable[[RunState, Workers], Iterable[Labelled]]


class Metric(NamedTuple):
    """One exported metric. `source` yields (label values, value) pairs; a value of None is left out."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    help: str
    source: Source
    labels: tuple[str, ...] = ()


def of_state(field: str) -> Source:
    """A field of the run's state."""
    return lambda state, workers: [((), getattr(state, field))]


def by_reason(field: str, *known: str) -> Source:
    """A counter of the run by reason. The `known` reasons start at 0, because a rate needs two values."""
    return lambda state, workers: [
        ((reason,), value) for reason, value in {**dict.fromkeys(known, 0), **getattr(state, field)}.items()
    ]


def of_evaluation(name: str) -> Source:
    """A number of the evaluation by tickets that is under way."""
    return lambda state, workers: [((), state.evaluation.get(name, 0))]


def of_workers(field: str) -> Source:
    """A number of the workers' heartbeats; a worker that does not report it is left out."""
    return lambda state, workers: [((worker,), number(beat.get(field))) for worker, beat in workers.items()]


def number(value: object) -> float | None:
    """`value` as a float if it is a number, else None."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def waits(beat: Mapping[str, Any]) -> dict[str, float]:
    """Seconds that a worker has waited, by reason."""
    by_name = beat.get("wait_seconds")
    readings = by_name.items() if isinstance(by_name, Mapping) else ()
    return {str(reason): seconds for reason, value in readings if (seconds := number(value)) is not None}


def worker_waits(state: RunState, workers: Workers) -> Iterator[Labelled]:
    """Seconds that each worker has waited, by reason."""
    for worker, beat in workers.items():
        for reason, seconds in waits(beat).items():
            yield (worker, reason), seconds


def worker_classes(state: RunState, workers: Workers) -> Iterator[Labelled]:
    """Examples of each class that each worker's allocator has found."""
    for worker, beat in workers.items():
        classes = beat.get("allocated")
        for name, count in classes.items() if isinstance(classes, Mapping) else ():
            yield (worker, str(name)), number(count)


def worker_info(state: RunState, workers: Workers) -> Iterator[Labelled]:
    """Host and process of each worker, as labels."""
    for worker, beat in workers.items():
        yield (worker, str(beat.get("node", "")), str(beat.get("pid", ""))), 1


def consumed(state: RunState, workers: Workers) -> Iterator[Labelled]:
    """Shards that were trained on, by who attacked them."""
    yield ("worker",), state.worker_shards
    yield ("trainer",), state.trainer_shards


def network(state: RunState, workers: Workers) -> Iterator[Labelled]:
    """Bytes of the queue's server, by direction."""
    yield ("in",), state.queue_received_bytes
    yield ("out",), state.queue_sent_bytes


def rolling_bounds(state: RunState, workers: Workers) -> Iterator[Labelled]:
    """The ends of the interval of the last judged version."""
    for end, value in zip(("low", "high"), state.rolling_interval or (), strict=False):
        yield (end,), value


def updated(state: RunState, workers: Workers) -> Iterator[Labelled]:
    """When the state was last written; nothing before."""
    yield (), state.updated or None
