"""Judge the examples of a sample by a panel of attacks, in tickets that may be attacked anywhere, in any order.

mode "exact", panels that regroup:    for each attack: batches of all that is still correct; each is a ticket
mode "fast", and panels that do not:  each batch is a ticket: one attack after the other

An example is robust if it is correct after every attack. What is wrong or broken is attacked no more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from sparring.data import Sample
from sparring.errors import UsageError
from sparring.evaluation.journal import FLAGS, Entry, Journal, Verdict
from sparring.evaluation.outcomes import Outcomes, joined
from sparring.evaluation.panels import Panel
from sparring.evaluation.robustness import interval
from sparring.evaluation.standing import Standing
from sparring.evaluation.strikes import Blow, Look, Strike
from sparring.evaluation.tickets import Judges, Ticket, sizes
from sparring.randomness import generator

LOOK = 500  # examples of a ticket without an attack, at least
Mode = Literal["exact", "fast"]


@dataclass
class Tally:
    """How far an evaluation is.

    examples: all of them. judged: those whose verdict is known; robust: of these. known: verdicts that were there
    before. attack: the one that is on; empty: all, ticket by ticket. tickets_done of `tickets`, of this attack, since
    `began` (seconds of the monotonic clock). workers: those that work; deaths: of workers.
    """

    examples: int
    judged: int = 0
    robust: int = 0
    known: int = 0
    attack: str = ""
    tickets: int = 0
    tickets_done: int = 0
    workers: int = 1
    deaths: int = 0
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds_left(self) -> float | None:
        """Of this attack, or of all, if a ticket takes as long as those before; None: none is done yet."""
        if not self.tickets_done:
            return None
        return (time.monotonic() - self.began) / self.tickets_done * (self.tickets - self.tickets_done)

    def begin(self, attack: str, tickets: int) -> None:
        """Count the tickets of an attack from now on."""
        self.attack, self.tickets, self.tickets_done, self.began = attack, tickets, 0, time.monotonic()

    def __str__(self) -> str:
        of = f"{self.attack}: " if self.attack else ""
        wrong = self.judged - self.robust
        so_far = (
            f", of {self.examples} examples {wrong} are wrong or broken, {self.robust} robust" if self.judged else ""
        )
        left = "" if self.seconds_left is None else f", about {_duration(self.seconds_left)} left"
        return f"{of}{self.tickets_done} of {self.tickets} tickets{so_far}{left}"


Progress = Callable[[Tally | str], None]


class Judgement(NamedTuple):
    """places: int64 [N], of the judged examples in the sample. outcomes: of these, on the CPU. verdicts, images
    (float32 [C, H, W], if asked for): by place, of those that were attacked. known: verdicts that were there before.
    warnings: of the attacks."""

    places: Tensor
    outcomes: Outcomes
    verdicts: dict[int, Verdict]
    images: dict[int, Tensor]
    known: int
    warnings: tuple[str, ...]


def judge(
    judges: Judges,
    sample: Sample,
    panel: Panel,
    *,
    batch_size: int,
    mode: Mode = "exact",
    journal: Journal | None = None,
    within: float | None = None,
    keep_images: bool = False,
    progress: Progress | None = None,
) -> Judgement:
    """Judge every example, or as many as are needed.

    Args:
        batch_size: examples of a ticket; at most, in mode "fast" with several workers.
        journal: verdicts are taken from it and added to it. Its identity holds all that they depend on: in mode "exact"
            also the sample and the batch size.
        within: stop as soon as the 95 % interval of robust accuracy reaches no further than this share from it. The
            examples are then taken in random order.
        keep_images: known verdicts have none, so that then there must be no journal.
        progress: called after each ticket, and with a sentence from within one.

    Raises:
        UsageError: `within` in mode "exact", or a panel without an attack.
    """
    require_possible(panel, mode, within)
    under_way = _UnderWay(judges, sample, panel, batch_size, journal, keep_images, progress)
    workers = judges.count if mode == "fast" else 1
    batches = _batches(sizes(len(sample), batch_size, workers), shuffled=within is not None)
    clean = under_way.look(_batches(sizes(len(sample), max(batch_size, LOOK)), shuffled=False))
    if mode == "exact" and panel.regroups:
        under_way.by_attack()
    else:
        batches = under_way.by_batch(batches, within)
    return under_way.judgement(clean, torch.tensor([place for batch in batches for place in batch]).sort().values)


def require_possible(panel: Panel, mode: Mode, within: float | None) -> None:
    """Refuse what `judge` cannot do. Raises as that."""
    if not panel.names:
        raise UsageError("no attack is left: what is not attacked is not robust. Set evaluation.attacks to others.")
    if mode == "exact" and within is not None:
        raise UsageError(
            "--until with evaluation.mode = 'exact', where all examples are judged in the batches of one process: set "
            "evaluation.mode to 'fast'."
        )


def _batches(of: list[int], shuffled: bool) -> list[list[int]]:
    """The places of each batch, of these sizes."""
    count = sum(of)
    order = torch.randperm(count, generator=generator(0, "judged")) if shuffled else torch.arange(count)
    return [batch.tolist() for batch in torch.split(order, of)]


class _UnderWay:
    """One evaluation under way."""

    def __init__(
        self,
        judges: Judges,
        sample: Sample,
        panel: Panel,
        batch_size: int,
        journal: Journal | None,
        keep_images: bool,
        progress: Progress | None,
    ) -> None:
        self.judges, self.sample, self.panel, self.batch_size = judges, sample, panel, batch_size
        self.journal, self.keep_images, self.progress = journal, keep_images, progress
        self.tally = Tally(len(sample), workers=judges.count)
        self.images: dict[int, Tensor] = {}

    def look(self, batches: Sequence[list[int]]) -> Outcomes:
        """The outcomes of the clean images, in the order of the sample."""
        twice = self.panel.of_one_pass
        tickets = [Ticket(n, tuple(batch), Look(twice and n == 0)) for n, batch in enumerate(batches)]
        self.tally.begin("clean images", len(tickets))
        done = list(self._results(tickets))
        places = torch.tensor([place for ticket, _ in done for place in ticket.places])
        clean = joined([found for _, found in done]).at(places.argsort())
        self.standing = Standing(self.sample.indices.tolist(), clean.clean.tolist(), self.panel.names)
        return clean

    def by_attack(self) -> None:
        """One attack after the other, on all that is still correct."""
        known = {(entry.attack, entry.after, entry.examples): entry for entry in self._known()}
        for position, name in enumerate(self.panel.names):
            after, alive = self.panel.names[:position], torch.tensor(self.standing.alive(), dtype=torch.int64)
            tickets = []
            for number, batch in enumerate(torch.split(alive, self.batch_size) if len(alive) else ()):
                ticket = self._ticket(number, number * self.batch_size, batch.tolist(), (name,), after)
                if entry := known.get((name, after, self._examples(ticket.places))):
                    self.tally.known += self._take(entry)
                else:
                    tickets.append(ticket)
            self.tally.begin(name, len(tickets))
            for ticket, blow in self._results(tickets):
                self._struck(ticket, blow)

    def by_batch(self, batches: list[list[int]], within: float | None) -> list[list[int]]:
        """Each batch through all attacks; those of the batches that are needed."""
        self.tally.known = sum(self._take(entry) for entry in self._known())
        firsts = [0, *accumulate(len(batch) for batch in batches)]
        tickets = [
            self._ticket(number, firsts[number], places, attacks)
            for number, batch in enumerate(batches)
            for attacks, places in self.standing.lacking(batch).items()
        ]
        self.tally.begin("", len(tickets))
        open_tickets = [0] * len(batches)
        for ticket in tickets:
            open_tickets[ticket.number] += 1
        needed = self._needed(batches, open_tickets, within)
        if needed is None:
            for ticket, blow in self._results(tickets):
                self._struck(ticket, blow)
                open_tickets[ticket.number] -= 1
                if (needed := self._needed(batches, open_tickets, within)) is not None:
                    break
        return batches if needed is None else batches[:needed]

    def _needed(self, batches: list[list[int]], open_tickets: list[int], within: float | None) -> int | None:
        """How many batches are enough for the interval; None: not known yet. Those before the first open one count,
        since of the others the quick ones are done first."""
        done = next((number for number, count in enumerate(open_tickets) if count), len(batches))
        places = [place for batch in batches[:done] for place in batch]
        if within is None or not places:
            return None
        robust = sum(self.standing.correct[place] for place in places)
        low, high = interval(robust, len(places))
        share = robust / len(places)
        return done if max(high - share, share - low) <= within else None

    def judgement(self, clean: Outcomes, places: Tensor) -> Judgement:
        """What was found at these places."""
        judged = set(places.tolist())
        verdicts = {place: each for place, each in self.standing.verdicts.items() if place in judged}
        met = {flag: torch.zeros(len(self.sample), dtype=torch.bool) for flag in FLAGS}
        for place, verdict in verdicts.items():
            for flag in verdict.flags:
                met[flag][place] = True
        met["non_finite_logits"] |= clean.non_finite_logits
        robust = torch.tensor(self.standing.correct) & ~met["non_finite_logits"]
        confidence = clean.confidence if self.panel.by_loss else torch.ones_like(clean.confidence)
        outcomes = replace(clean, robust=robust, confidence=confidence, **met).at(places)
        warnings = (*self.standing.warnings, *self._remarks(verdicts.values(), len(places)))
        return Judgement(places, outcomes, verdicts, self.images, self.tally.known, warnings)

    def within(self, sentence: str) -> None:
        """Of `Events`."""
        if self.progress is not None:
            self.progress(sentence)

    def working(self, workers: int, deaths: int) -> None:
        """Of `Events`."""
        self.tally.workers, self.tally.deaths = workers, deaths

    def _ticket(
        self, number: int, first: int, places: list[int], attacks: tuple[str, ...], after: tuple[str, ...] = ()
    ) -> Ticket:
        strike = Strike(self.panel, attacks, after, self._examples(places), first, self.keep_images)
        return Ticket(number, tuple(places), strike)

    def _examples(self, places: Sequence[int]) -> tuple[int, ...]:
        return tuple(self.standing.indices[place] for place in places)

    def _known(self) -> list[Entry]:
        return [] if self.journal is None else self.journal.entries()

    def _results(self, tickets: Sequence[Ticket]) -> Iterator[tuple[Ticket, Any]]:
        for ticket, result in self.judges.results(self.sample, tickets, self):
            self.tally.tickets_done += 1
            yield ticket, result
            if self.progress is not None:
                self.progress(self.tally)

    def _struck(self, ticket: Ticket, blow: Blow) -> None:
        if self.journal is not None:
            self.journal.add(blow.entries)
        if blow.images is not None:
            self.images |= dict(zip(ticket.places, blow.images, strict=True))
        for entry in blow.entries:
            self._take(entry)

    def _take(self, entry: Entry) -> int:
        taken = self.standing.take(entry)
        self.tally.judged = self.standing.wrong + self.standing.robust
        self.tally.robust = self.standing.robust
        return taken

    def _remarks(self, verdicts: Iterable[Verdict], examples: int) -> list[str]:
        """What the panel says of the accuracy after each of its attacks."""
        broken = [verdict.broken_by for verdict in verdicts]
        left, shares = len(broken), {}
        for name in self.panel.names:
            left -= broken.count(name)
            shares[name] = left / examples
        return self.panel.remarks(shares)


def _duration(seconds: float) -> str:
    """Such as 45 s, 12 min or 3.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
