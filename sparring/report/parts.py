"""The parts that a report is made of, and how its numbers are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MOST_ROWS = 12  # of the table beneath a chart


@dataclass(frozen=True)
class Row:
    """A line of a table; `marked`: its values differ, between runs or from the default."""

    cells: tuple[str, ...]
    marked: bool = False


@dataclass(frozen=True)
class Table:
    """A table; the first cell of each row is its heading."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Chart:
    """A chart as Vega-Lite, what it shows in words, and its values as a table.

    along: the axis that it is drawn against, where the reader may choose one.
    """

    name: str
    title: str
    caption: str
    spec: dict[str, Any] | None
    table: Table
    along: str = ""


@dataclass(frozen=True)
class Card:
    """A headline figure: what it is, its value with interval, and what it was measured on."""

    title: str
    value: str
    interval: str
    detail: str


@dataclass(frozen=True)
class Picture:
    """An image before and after an attack, as data URIs, with what the network says of it.

    kind: robust, broken or wrong. magnified: how many times the perturbation is.
    """

    title: str
    kind: str
    clean: str
    perturbation: str
    attacked: str
    before: str
    after: str
    magnified: str


@dataclass(frozen=True)
class Gallery:
    """Attacked images of one run."""

    run: str
    caption: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Section:
    """A section of the report; `files`: texts by title, such as a recipe."""

    name: str
    title: str
    notes: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    galleries: tuple[Gallery, ...] = ()
    commands: tuple[tuple[str, str], ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    cards: tuple[Card, ...] = ()


def table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[object]], most: int = 10_000) -> Table:
    """A table of at most `most` rows, evenly spaced, with the last one."""
    count = min(most, len(rows))
    shown = [rows[(number + 1) * len(rows) // count - 1] for number in range(count)]
    if count < len(rows):
        caption += f" ({count} of {len(rows)} points)"
    return Table(caption, tuple(columns), tuple(Row(tuple(map(text, row))) for row in shown))


def text(value: object) -> str:
    """A value as a report shows it."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)


def percent(share: float | None, interval: tuple[float, float] | None = None, places: int = 1) -> str:
    """Such as 93.1 % (92.6 to 93.6), with the 95 % interval in brackets."""
    if share is None:
        return "–"
    if interval is None:
        return f"{100 * share:.{places}f} %"
    low, high = interval
    return f"{100 * share:.{places}f} % ({100 * low:.{places}f} to {100 * high:.{places}f})"


def duration(seconds: float) -> str:
    """Such as 9 min 17 s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
