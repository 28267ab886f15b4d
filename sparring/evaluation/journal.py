"""Verdicts on disk: whoever dies loses only the tickets that were being attacked.

A file of JSON lines: first what the verdicts depend on, then one line for each attack of a ticket, with its digest. A
line that a dead process has cut short, or that was altered, is passed over, and its ticket is attacked again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from sparring.errors import UsageError
from sparring.runs import append, lines_of, locked, overwrite

log = logging.getLogger(__name__)

DIGEST = "digest"  # of the rest of a line; earlier versions wrote lines without one, which are believed
TOLERANCE = 1e-3  # between devices and numbers of threads
FLAGS = ("zero_gradient", "non_finite_gradient", "non_finite_logits")


class Verdict(NamedTuple):
    """What an attack, or several one after the other, made of one example.

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
    """The verdicts of one attack on examples that were correct after the attacks in `after`."""

    attack: str
    after: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    warnings: tuple[str, ...] = ()

    @property
    def examples(self) -> tuple[int, ...]:
        """Their indices in the data set."""
        return tuple(verdict.example for verdict in self.verdicts)


class AsDict(Protocol):
    """A NamedTuple."""

    def _asdict(self) -> dict[str, Any]: ...


E = TypeVar("E", bound=AsDict)


class Entries(ABC, Generic[E]):
    """The entries that belong to one `identity`: all that they depend on, in plain types.

    behaviour: numbers that a network has which is the same in code and weights, such as logits; those of the file must
    be close to them.
    """

    def __init__(self, folder: Path, name: str, identity: Mapping[str, Any], behaviour: Sequence[float] = ()) -> None:
        text = json.dumps(identity, sort_keys=True)
        self.identity, self.behaviour = json.loads(text), list(behaviour)
        self.path = folder / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.jsonl"

    @abstractmethod
    def parsed(self, line: Mapping[str, Any]) -> E | None:
        """The entry of a line; None where it is none."""

    def entries(self) -> list[E]:
        """What is known."""
        whole = (_without_digest(line) for line in lines_of(self.path) if self._is_as_written(line))
        return [entry for line in whole if (entry := self.parsed(line)) is not None]

    def digest(self, line: Mapping[str, Any]) -> str:
        """Of what a line holds beside its digest."""
        return digest_of(line)

    def _is_as_written(self, line: Mapping[str, Any]) -> bool:
        return DIGEST not in line or line[DIGEST] == self.digest(_without_digest(line))

    def _line(self, entry: E) -> str:
        plain = json.loads(json.dumps(entry._asdict()))
        return json.dumps({**plain, DIGEST: self.digest(plain)})

    def add(self, entries: Sequence[E]) -> None:
        """Write down a ticket's verdicts.

        Raises:
            SparringError: the disk is full, or the file may not be written to.
        """
        append(self.path, "\n".join(map(self._line, entries)))

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Make the file, and lock it for this process.

        Raises:
            UsageError: another process has the lock.
            SparringError: the folder may not be written to.
        """
        busy = f"{self.path} is being written by another evaluation of the same kind. Wait for its end."
        with locked(self.path, busy):
            yield

    def require_same(self) -> None:
        """Refuse verdicts of another network, before they are used.

        Raises:
            UsageError: the network gives other values than when the verdicts were made.
        """
        head = self._head()
        if head is not None and not _close(head.get("behaviour"), self.behaviour):
            raise UsageError(
                f"{self.path} holds verdicts of these weights and settings, but the network gave other logits then: "
                f"its code, or what it imports, has changed. --again forgets them."
            )

    def begin(self, again: bool = False) -> None:
        """Write the first line where it is missing. again: forget what is known.

        Lines that were altered are told of and taken out.
        """
        altered = sum(not self._is_as_written(line) for line in lines_of(self.path))
        if altered and not again:
            log.warning(
                f"{self.path}: what {altered} of its lines say was altered after it was written; it is not used, but "
                f"found anew"
            )
        if again:
            overwrite(self.path, "")
        if altered or self._head() is None:
            known = "".join(self._line(entry) + "\n" for entry in self.entries())
            overwrite(self.path, json.dumps({"identity": self.identity, "behaviour": self.behaviour}) + "\n" + known)

    def _head(self) -> dict[str, Any] | None:
        return next((line for line in lines_of(self.path)[:1] if line.get("identity") == self.identity), None)


class Journal(Entries[Entry]):
    """The verdicts of attacks."""

    def parsed(self, line: Mapping[str, Any]) -> Entry | None:
        return _entry(line)


def digest_of(plain: Any) -> str:
    """The beginning of the SHA-256 of plain types."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def _without_digest(line: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name != DIGEST}


def _close(one: Any, other: Sequence[float]) -> bool:
    """Within what another order of sums changes."""
    if not isinstance(one, list) or len(one) != len(other):
        return False
    return all(abs(a - b) <= TOLERANCE * max(1.0, abs(a), abs(b)) for a, b in zip(one, other, strict=True))


def _entry(line: Mapping[str, Any]) -> Entry | None:
    """The entry of a line; None where it is none."""
    try:
        attack, after, warnings = line["attack"], _texts(line["after"]), _texts(line["warnings"])
        verdicts = tuple(
            Verdict(example, broken_by, loss, queries, _texts(flags))
            for example, broken_by, loss, queries, flags in line["verdicts"]
        )
        sound = isinstance(attack, str) and all(
            verdict.broken_by in (None, attack)
            and all(isinstance(count, int) and count >= 0 for count in (verdict.example, verdict.queries))
            and isinstance(verdict.loss, float)
            and math.isfinite(verdict.loss)
            and set(verdict.flags) <= set(FLAGS)
            for verdict in verdicts
        )
        return Entry(attack, after, verdicts, warnings) if sound else None
    except (KeyError, TypeError, ValueError, IndexError):
        return None


def _texts(values: Sequence[Any]) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(values)
    return tuple(values)
