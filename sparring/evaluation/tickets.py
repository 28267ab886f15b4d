"""Tickets of an evaluation: some examples and what is to be done with them, in any place and any order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from sparring.data import Dataset, batch
from sparring.machine.devices import device_of
from sparring.models.forward import plain

SMALLEST = 8  # examples of a ticket

Progress = Callable[[str], None]
Work = Callable[[Sequence[nn.Module], Tensor, Tensor, Progress | None], Any]
"""work(models, x [n, C, H, W] in [0, 1], y [n], progress) -> a result that can be pickled. The models are in eval mode
and float32, the images on their device. It depends on its arguments alone, so that it may be done again."""


class Ticket(NamedTuple):
    """`work` on the examples at these `places` of a sample. number: its batch, counted from 0."""

    number: int
    places: tuple[int, ...]
    work: Work


class Events(Protocol):
    """Who is told while tickets are at work."""

    def within(self, sentence: str) -> None:
        """How far a ticket is, where the work is done in this process."""

    def working(self, workers: int, deaths: int) -> None:
        """How many workers work, and how many have died."""


class Judges(Protocol):
    """Whoever does the tickets' work: this process, or workers on devices of their own. count: how many at a time."""

    count: int

    def results(self, examples: Dataset, tickets: Iterable[Ticket], events: Events) -> Iterator[tuple[Ticket, Any]]:
        """Each ticket with its result, as they are done; tickets are taken one by one when there is room."""


class InProcess:
    """Does the work in this process, one ticket after the other."""

    count = 1

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self.models = [plain(model) for model in models]

    def results(self, examples: Dataset, tickets: Iterable[Ticket], events: Events) -> Iterator[tuple[Ticket, Any]]:
        for ticket in tickets:
            yield ticket, self.done(ticket.work, *examples_at(examples, ticket.places), events.within)

    def done(self, work: Work, x: Tensor, y: Tensor, progress: Progress | None = None) -> Any:
        """The result of a ticket's work on these images and labels."""
        device = device_of(self.models[0])
        return work(self.models, x.to(device), y.to(device), progress)


class Unheard:
    """`Events` that nobody listens to."""

    def within(self, sentence: str) -> None:
        """Nothing."""

    def working(self, workers: int, deaths: int) -> None:
        """Nothing."""


class Remembers(Protocol):
    """Whoever keeps the results of works, by their position, on batches."""

    def known(self, work: int, places: Sequence[int]) -> Any | None: ...

    def keep(self, work: int, places: Sequence[int], result: Any) -> None: ...


def each_on_all(
    judges: Judges,
    examples: Dataset,
    works: Sequence[Callable[[tuple[int, ...]], Work]],
    size: int,
    *,
    memory: Remembers | None = None,
    report: Callable[[int, int], None] | None = None,
) -> list[list[Any]]:
    """The results of each work on all batches of at most `size` examples, in order.

    Args:
        works: each is made for the places of a batch.
        memory: what it knows is not done again. report: called with (tickets done, all tickets).
    """
    batches = in_batches(len(examples), size)
    pairs = [(work, places) for work in range(len(works)) for places in batches]
    found: dict[int, Any] = {}
    if memory is not None:
        known = ((number, memory.known(*pair)) for number, pair in enumerate(pairs))
        found = {number: result for number, result in known if result is not None}
    tickets = (
        Ticket(number, places, works[work](places))
        for number, (work, places) in enumerate(pairs)
        if number not in found
    )
    for ticket, result in judges.results(examples, tickets, Unheard()):
        found[ticket.number] = result
        if memory is not None:
            memory.keep(*pairs[ticket.number], result)
        if report is not None:
            report(len(found), len(pairs))
    results = [found[number] for number in range(len(pairs))]
    return [results[first : first + len(batches)] for first in range(0, len(results), len(batches))]


def at_first(make: Callable[[int], Work]) -> Callable[[tuple[int, ...]], Work]:
    """A work that is made from the place of its batch's first example."""
    return lambda places: make(places[0])


def examples_at(examples: Dataset, places: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Images in [0, 1], float32 [n, C, H, W], and labels, on the CPU."""
    return batch(examples, torch.tensor(places), augment="none", seed=0, epoch=0)


def in_batches(examples: int, size: int) -> list[tuple[int, ...]]:
    """The places of each batch, in order."""
    return [tuple(range(first, min(first + size, examples))) for first in range(0, examples, size)]


def sizes(examples: int, largest: int, workers: int = 1) -> list[int]:
    """Examples of each ticket. For one worker all are of the `largest` size. For several a ticket is half of a worker's
    share of what is left: large ones first, for devices like them, and small ones last, so that all end together."""
    found, left = [], examples
    while left:
        share = -(-left // (2 * workers)) if workers > 1 else left
        found.append(min(left, largest, max(share, SMALLEST)))
        left -= found[-1]
    return found
