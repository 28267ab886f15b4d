"""Verdicts on disk: whoever dies loses only the tickets that were being attacked.

A file of JSON lines: first what the verdicts depend on, then one line a ticket. A line that a dead process has cut
short is passed over, and its ticket is attacked again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from sparring.errors import SparringError, UsageError
from sparring.runs import append, lines_of, writing

FLAGS = ("zero_gradient", "non_finite_gradient", "non_finite_logits")


class Verdict(NamedTuple):
    """What attacks, one after the other, made of one example.

    example: its index in the data set. broken_by: the attack after which it was misclassified; None: it is still
    correct. loss: the highest cross-entropy of its attacked images. queries: forward passes of it. flags: of FLAGS,
    what was met.
    """

    example: int
    broken_by: str | None
    loss: float
    queries: int
    flags: tuple[str, ...] = ()

    def and_then(self, later: Verdict) -> Verdict:
        """This one of earlier attacks, and that of later ones, as one."""
        flags = tuple(flag for flag in FLAGS if flag in self.flags or flag in later.flags)
        return Verdict(self.example, later.broken_by, max(self.loss, later.loss), self.queries + later.queries, flags)


class Entry(NamedTuple):
    """The verdicts of a ticket: of `attacks` in order, on examples that were correct after the attacks in `after`."""

    attacks: tuple[str, ...]
    after: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    warnings: tuple[str, ...] = ()

    @property
    def examples(self) -> tuple[int, ...]:
        """Their indices in the data set."""
        return tuple(verdict.example for verdict in self.verdicts)


class Journal:
    """The verdicts that belong to one `identity`: all that they depend on, in plain types."""

    def __init__(self, folder: Path, name: str, identity: Mapping[str, Any]) -> None:
        text = json.dumps(identity, sort_keys=True)
        self.identity = json.loads(text)
        self.path = folder / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.jsonl"

    def entries(self) -> list[Entry]:
        """What is known.

        Raises:
            SparringError: the file is of something else.
        """
        lines = lines_of(self.path)
        if lines and lines[0].get("identity") != self.identity:
            raise SparringError(f"{self.path} holds verdicts of something else than its name says. Delete it.")
        return [entry for line in lines[1:] if (entry := _entry(line)) is not None]

    def add(self, entry: Entry) -> None:
        """Write down a ticket's verdicts.

        Raises:
            SparringError: the disk is full, or the file may not be written to.
        """
        append(self.path, json.dumps(entry._asdict()))

    def forget(self) -> None:
        """Delete what is known."""
        self.path.unlink(missing_ok=True)

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Make the file, and lock it for this process.

        Raises:
            UsageError: another process has the lock.
        """
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = self.path.open("a")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(
                    f"{self.path} is being written by another evaluation of the same kind. Wait for its end."
                ) from None
            if not self.path.stat().st_size:
                append(self.path, json.dumps({"identity": self.identity}))
            yield


def _entry(line: Mapping[str, Any]) -> Entry | None:
    """The entry of a line; None where it is none."""
    try:
        verdicts = tuple(
            Verdict(int(example), _text_or_none(broken_by), float(loss), int(queries), _texts(flags))
            for example, broken_by, loss, queries, flags in line["verdicts"]
        )
        return Entry(_texts(line["attacks"]), _texts(line["after"]), verdicts, _texts(line["warnings"]))
    except (KeyError, TypeError, ValueError):
        return None


def _texts(values: Sequence[Any]) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(values)
    return tuple(values)


def _text_or_none(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ValueError(value)
    return value
