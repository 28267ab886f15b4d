"""The figures of a study's finished points, found by their coordinates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

Record = dict[str, Any]


@dataclass(frozen=True)
class Results:
    """Records of finished points: each has `at`, `does` and `figures`."""

    records: Sequence[Record]

    def of(self, does: str | None = None, /, **at: Any) -> Results:
        """Those that do this, at these coordinates."""
        return Results(
            [
                record
                for record in self.records
                if (does is None or record["does"] == does)
                and all(name in record["at"] and record["at"][name] == value for name, value in at.items())
            ]
        )

    def values(self, figure: str, does: str | None = None, /, **at: Any) -> list[float]:
        """A figure of each, in the order of the records.

        Raises:
            LookupError: there is no such point.
        """
        found = [value for value in (each["figures"].get(figure) for each in self.of(does, **at)) if value is not None]
        if not found:
            raise LookupError(f"no point at {at} has a figure {figure!r}")
        return found

    def mean(self, figure: str, does: str | None = None, /, **at: Any) -> float:
        """Mean of a figure over the points at these coordinates.

        Raises:
            LookupError: there is no such point.
        """
        return mean(self.values(figure, does, **at))

    def coordinates(self, name: str) -> list[Any]:
        """Values of a coordinate that occur, in the order of the records.

        Raises:
            LookupError: there is none.
        """
        found = list(dict.fromkeys(each["at"][name] for each in self.records if name in each["at"]))
        if not found:
            raise LookupError(f"no point has a coordinate {name!r}")
        return found

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)
