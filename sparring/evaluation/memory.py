"""Results of batches on disk: an evaluation that dies goes on where it was.

For evaluations whose works give each batch of a sample a result of their own; verdicts example by example are kept by
journal.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from sparring.evaluation.journal import Entries, digest_of

T = TypeVar("T")


class Done(NamedTuple):
    """A work's result on a batch, in plain types. examples: the indices of its examples in the data set."""

    work: str
    examples: tuple[int, ...]
    result: Any


class Results(Entries[Done]):
    """The results that belong to one identity."""

    def digest(self, line: Mapping[str, Any]) -> str:
        return digest_of([line.get(name) for name in Done._fields])  # as earlier versions made it

    def parsed(self, line: Mapping[str, Any]) -> Done | None:
        if set(line) != set(Done._fields) or not isinstance(line["work"], str):
            return None
        examples = line["examples"]
        if not isinstance(examples, list) or not all(isinstance(each, int) for each in examples):
            return None
        return Done(line["work"], tuple(examples), line["result"])


class Memory(Generic[T]):
    """What is known of the works of an evaluation, and where it is kept.

    indices: of the sample's examples in the data set. names: of the works, in order. to_plain, from_plain: of a result;
    `from_plain` raises a ValueError, KeyError or TypeError where a line is damaged, and the batch is done again.
    """

    def __init__(
        self,
        results: Results | None,
        indices: Sequence[int],
        names: Sequence[str],
        to_plain: Callable[[T], Any],
        from_plain: Callable[[Any], T],
    ) -> None:
        self.results, self.indices, self.names, self.to_plain, self.from_plain = (
            results,
            indices,
            names,
            to_plain,
            from_plain,
        )
        entries = [] if results is None else results.entries()
        self._known = {(entry.work, entry.examples): entry.result for entry in entries}

    def known(self, work: int, places: Sequence[int]) -> T | None:
        """The result of a work, by its position, on the examples at these places of the sample; None: not known."""
        found = self._known.get((self.names[work], self._examples(places)))
        try:
            return None if found is None else self.from_plain(found)
        except (ValueError, KeyError, TypeError):
            return None

    def keep(self, work: int, places: Sequence[int], result: T) -> None:
        """Write a result down."""
        if self.results is not None:
            self.results.add([Done(self.names[work], self._examples(places), self.to_plain(result))])

    def _examples(self, places: Sequence[int]) -> tuple[int, ...]:
        return tuple(self.indices[place] for place in places)
