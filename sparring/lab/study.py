"""What a study is: its points, the table and charts that are made of them, and what the paper says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from sparring.lab.results import Results

Size = Literal["quick", "full"]
SIZES: tuple[Size, ...] = ("quick", "full")
Value = str | int | float
FORM = 1  # of what a key is made of
UNTRAINED = 20.0  # percent; networks of ten classes at or below it are near chance
OURS, UNMEASURED = "ours", "not measured"  # in the place of a paper's figure: the statement is this project's own


@dataclass(frozen=True)
class Point:
    """One thing to be done and measured.

    Args:
        does: name of what is done (sparring/lab/work.py), such as "train".
        at: where it stands in the study's grid, such as {"staleness": 16, "seed": 0}; not part of its key.
        settings: of the run, by dotted name, without where its data lie.
        options: of what is done.
        needs: points whose runs it works on.
    """

    does: str
    at: Mapping[str, Value]
    settings: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[Point, ...] = ()

    @cached_property
    def key(self) -> str:
        """Hash of all that its figures depend on: points with the same key are the same, in whatever study."""
        whole = [FORM, self.does, dict(self.settings), dict(self.options), [each.key for each in self.needs]]
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self.at.items()) or self.does


@dataclass(frozen=True)
class Verdict:
    """Ours beside the paper's. agrees: None if it was not run, the paper gives nothing to compare
    with, or the difference is within what one seed varies; of a statement of our own, whether it holds."""

    text: str
    paper: str
    ours: str
    agrees: bool | None

    @property
    def word(self) -> str:
        """agrees, differs, open, or not run; of a statement of our own holds or does not hold."""
        if self.agrees is None:
            return "open" if self.ours else "not run"
        own = self.paper in (OURS, UNMEASURED)
        return ("holds" if self.agrees else "does not hold") if own else ("agrees" if self.agrees else "differs")


class Untrained(LookupError):
    """The network that others are compared with is no better than chance, so nothing can be said."""


def baseline(accuracy: float, chance: float = UNTRAINED) -> float:
    """The accuracy, in percent, of a network that others are compared with.

    Args:
        chance: at or below it, in percent, the network is no better than chance.

    Raises:
        Untrained: it is near chance.
    """
    if accuracy <= chance:
        raise Untrained(f"what it is compared with did not train ({accuracy:.1f})")
    return accuracy


@dataclass(frozen=True)
class Claim:
    """A statement of the paper that the study's figures are held against.

    Args:
        text: the statement, one sentence.
        paper: its figure there; OURS or UNMEASURED for a statement of our own.
        measure: our figure as text, and whether it agrees. It raises a LookupError if a point has not been made.
    """

    text: str
    paper: str
    measure: Callable[[Results], tuple[str, bool | None]]

    def verdict(self, results: Results) -> Verdict:
        """The statement beside our figure."""
        try:
            ours, agrees = self.measure(results)
        except Untrained as error:
            ours, agrees = str(error), None
        except LookupError:
            ours, agrees = "", None
        return Verdict(self.text, self.paper, ours, agrees)


@dataclass(frozen=True)
class Column:
    """A column of a study's table. name: of the figure; share: shown in percent; digits: after the point."""

    name: str
    title: str
    share: bool = True
    digits: int = 1


@dataclass(frozen=True)
class Table:
    """The rows of a table: points of the same coordinates, but for the seed.

    Args:
        by: coordinates that name a row.
        columns: figures that it shows, mean and range over the seeds.
        does: only points that do this.
        paper: the paper's figures of a row (the values of `by`), by figure.
        title: above it, where a study has several.
        compared: the paper's figures are of the same data, so that the difference says something.
    """

    by: tuple[str, ...]
    columns: tuple[Column, ...]
    does: str = "train"
    paper: Mapping[tuple[Value, ...], Mapping[str, float]] = field(default_factory=dict)
    title: str = ""
    compared: bool = True


def as_recorded(results: Results) -> Results:
    """For studies that derive no figures."""
    return results


@dataclass(frozen=True)
class Study:
    """A question of a paper, and what answers it.

    Args:
        name: of the study, for the command.
        paper: number and authors.
        shows: tables and figures of the paper.
        question: that it answers, one sentence.
        setting: of the quick and the full size, one sentence each.
        points: of a size and of these seeds.
        tables, claims: what is made of the points.
        charts: by name, from the results to a Vega-Lite specification.
        derived: the results with figures added that follow from those of several points.
    """

    name: str
    paper: str
    shows: str
    question: str
    setting: Mapping[Size, str]
    points: Callable[[Size, Sequence[int]], list[Point]]
    tables: tuple[Table, ...] = ()
    claims: tuple[Claim, ...] = ()
    charts: Mapping[str, Callable[[Results], dict[str, Any]]] = field(default_factory=dict)
    derived: Callable[[Results], Results] = as_recorded
