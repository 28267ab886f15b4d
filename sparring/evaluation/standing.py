"""What is known of each example of a sample while it is judged."""

from __future__ import annotations

from collections.abc import Sequence

from sparring.evaluation.journal import Entry, Verdict


class Standing:
    """indices: of the examples in the data set. correct: without an attack. names: the attacks that count, in order."""

    def __init__(self, indices: Sequence[int], correct: Sequence[bool], names: tuple[str, ...]) -> None:
        self.indices, self.correct, self.names = list(indices), list(correct), names
        self.verdicts: dict[int, Verdict] = {}  # by place
        self.warnings: dict[str, None] = {}
        self._places = {index: place for place, index in enumerate(indices)}
        self._survived: list[set[str]] = [set() for _ in indices]
        self.wrong, self.robust = self.correct.count(False), 0  # how many are wrong or broken, and judged robust

    def take(self, entry: Entry) -> int:
        """Take verdicts over; returns how many. Those of other examples, by an attack that does not count, or that are
        known, say nothing."""
        if entry.attack not in self.names:
            return 0
        taken = 0
        for verdict in entry.verdicts:
            place = self._places.get(verdict.example)
            if place is None or not self.correct[place] or entry.attack in self._survived[place]:
                continue
            taken += 1
            known = self.verdicts.get(place)
            self.verdicts[place] = verdict if known is None else known.and_then(verdict)
            if verdict.broken_by is not None:
                self.correct[place] = False
                self.wrong += 1
                continue
            self._survived[place].add(entry.attack)
            self.robust += len(self._survived[place]) == len(self.names)
        self.warnings |= dict.fromkeys(entry.warnings if taken else ())
        return taken

    def alive(self) -> list[int]:
        """The places of what is still correct."""
        return [place for place, correct in enumerate(self.correct) if correct]

    def lacking(self, places: Sequence[int]) -> dict[tuple[str, ...], list[int]]:
        """What of these places is still to be attacked: places by attacks, in order."""
        found: dict[tuple[str, ...], list[int]] = {}
        for place in places:
            names = tuple(name for name in self.names if name not in self._survived[place])
            if self.correct[place] and names:
                found.setdefault(names, []).append(place)
        return found
