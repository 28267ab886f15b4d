"""A worker's side of a rolling evaluation: while it would wait, it judges held-out examples, one pass at a time.

Training comes first. The judged network is another than the attacked one, and stands still before each of its passes
(`Stepwise`): there the worker looks for tickets, and goes on judging only when it has none.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from sparring.engines.asynchronous.background import Background
from sparring.engines.asynchronous.snapshot import Route, Snapshot
from sparring.evaluation.rolling import Answer, Questions, answer
from sparring.models.arrays import load_arrays
from sparring.queue.messages import Piece, PieceVerdict
from sparring.queue.pieces import Pieces
from sparring.workers.stepwise import Stepwise

log = logging.getLogger(__name__)
LOOK_S = 0.2  # between two looks for a piece where there was none
FETCH_S = 5.0  # how long to wait for the weights of a piece


class Idle:
    """Takes pieces and judges them. `model` is for this alone.

    seconds: spent in passes. pieces_done: pieces whose verdicts were sent.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        device: torch.device,
        asked: Questions,
        pieces: Pieces,
        route: Route,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self.model, self.device, self.asked = name, model, device, asked
        self.pieces, self.route, self.clock = pieces, route, clock
        self.seconds, self.pieces_done = 0.0, 0
        self._piece: Piece | None = None
        self._loaded = (0, -1)  # fence and version of the model's weights
        self._fetching: Background[Snapshot | None] = Background("judged weights")
        self._work: Stepwise[Answer] | None = None
        self._looked_at = float("-inf")

    @property
    def ready(self) -> bool:
        """Whether there is a pass to make. Looks for a piece, and for its weights, where there is none at hand."""
        if self._work is None:
            self._prepare()
        return self._work is not None

    def step(self) -> bool:
        """Make one pass; False: there is none to make. A piece that fails is logged and given up."""
        if not self.ready or self._work is None or self._piece is None:
            return False
        began = self.clock()
        try:
            found = self._work.advance()
            if found is not None:
                self._tell(self._piece, found)
        except Exception as error:  # whatever a user's network raises: training goes on
            log.error("piece %d of version %d not judged", self._piece.number, self._piece.version, exc_info=error)
            self._drop()
        self.seconds += self.clock() - began
        return True

    def close(self) -> None:
        """Give up what is under way: its piece is offered again."""
        self._drop()

    def _prepare(self) -> None:
        """Take a piece, fetch its weights in a thread, begin its work: as far as it goes without waiting."""
        if self._piece is None:
            self._take()
        if self._piece is None:
            return
        order = self._piece.fence, self._piece.version
        if self._loaded != order and not self._fetched(order):
            return
        self._work = Stepwise(partial(self._answer, self._piece.number), self.device)

    def _take(self) -> None:
        if self.clock() - self._looked_at < LOOK_S:
            return
        self._piece = self.pieces.take()
        self._looked_at = self.clock() if self._piece is None else float("-inf")
        if self._piece is None or self._piece.number >= len(self.asked.pieces):
            self._piece = None
        elif self._piece.fingerprint != self.asked.sample.fingerprint:
            log.error(
                "data.name: this host's held-out examples (fingerprint %s) are not the trainer's (%s). Give all hosts "
                "the same.",
                self.asked.sample.fingerprint,
                self._piece.fingerprint,
            )
            self._piece = None
        else:
            order = self._piece.fence, self._piece.version
            if order != self._loaded:
                self._fetching.start(partial(self.route.exactly, order, FETCH_S))

    def _fetched(self, order: tuple[int, int]) -> bool:
        """Whether the weights of the piece are loaded now; a piece whose weights are gone is given up."""
        ended = self._fetching.settle(wait=False)
        if ended is None:
            return False
        error = ended.exception()
        snapshot = None if error is not None else ended.result()
        if snapshot is None or snapshot.order != order:
            log.warning("the weights of version %d, which is to be judged, did not come: %s", order[1], error)
            self._piece = None
            return False
        load_arrays(self.model, snapshot.arrays)
        self._loaded = order
        return True

    def _answer(self, number: int, pause: Callable[[], None]) -> Answer:
        """In the thread of the work: `pause` before each pass."""
        hook = self.model.register_forward_pre_hook(lambda module, images: pause())
        try:
            return answer(self.model, self.asked, number)
        finally:
            hook.remove()

    def _tell(self, piece: Piece, found: Answer) -> None:
        self.pieces.tell(PieceVerdict(piece.fence, piece.version, piece.number, found.clean, found.robust, self.name))
        self.pieces_done += 1
        self._drop()

    def _drop(self) -> None:
        if self._work is not None:
            self._work.close()
        self._work = self._piece = None
