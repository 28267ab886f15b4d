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

    def take(self, entry: Entry) -> None:
        """Take a ticket's verdicts over, except those of other examples or by attacks that do not count."""
        self.warnings |= dict.fromkeys(entry.warnings)
        for verdict in entry.verdicts:
            place, broken = self._places.get(verdict.example), verdict.broken_by
            if place is None or not self.correct[place]:
                continue
            before = entry.attacks if broken is None else entry.attacks[: entry.attacks.index(broken)]
            was_robust = self._survived[place].issuperset(self.names)
            self._survived[place] |= set(before)
            self.robust += self._survived[place].issuperset(self.names) - was_robust
            if broken is None or broken in self.names:
                known = self.verdicts.get(place)
                self.verdicts[place] = verdict if known is None else known.and_then(verdict)
                self.correct[place] = broken is None
                self.wrong += broken is not None

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
