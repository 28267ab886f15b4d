"""The trainer's side of a rolling evaluation: it offers a version to be judged, and gathers the verdicts.

One version at a time: its weights are copied, sent to the workers and kept here until all held-out examples are judged;
if it is the best so far, it becomes the best checkpoint. Sending, asking and writing are done in threads; the copies
take a SHARE of the trainer's time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from sparring.engines.asynchronous.background import Background
from sparring.engines.asynchronous.snapshot import Route, Snapshot
from sparring.evaluation.rolling import Questions
from sparring.models.arrays import arrays_of
from sparring.queue.messages import Controls, Piece, PieceVerdict
from sparring.queue.pieces import Pieces
from sparring.queue.transport import QueueLost
from sparring.trainer import checkpoints
from sparring.trainer.checkpoints import Checkpoint, Copied, copied
from sparring.trainer.rolling import RollingMonitor, RollingVerdict
from sparring.trainer.session import Session

log = logging.getLogger(__name__)
SHARE = 0.005  # of the trainer's time, at most, for copies of the weights
AGAIN_S = 60.0  # then pieces whose verdicts have not come are offered again
MOST_OFFERS = 3  # of pieces without a verdict; then the version is given up
STALE_S = 10.0  # then a version of which nobody has taken a piece gives way to a newer one
ASK_S = 0.5  # from one question for verdicts to the next
POLL_S = 0.1


class Kept(NamedTuple):
    """A version as it was offered: its networks (see `Learner.networks`), and what training continues from with it."""

    networks: dict[str, Copied]
    checkpoint: Checkpoint


class Heard(NamedTuple):
    """What was asked for of a version: verdicts that have come, and how many of its pieces nobody has taken."""

    judgement: RollingVerdict
    verdicts: list[PieceVerdict]
    untaken: int


class Rolling:
    """Offers and gathers; `look` is to be called between steps, several times a second.

    seconds: how long the trainer was kept from its work, in all.
    """

    def __init__(
        self,
        session: Session,
        asked: Questions,
        monitor: RollingMonitor,
        pieces: Pieces,
        route: Route,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.session, self.asked, self.monitor = session, asked, monitor
        self.pieces, self.route, self.clock = pieces, route, clock
        self.judgement: RollingVerdict | None = None
        self.seconds = 0.0
        self._kept: Kept | None = None
        self._sending: Background[None] = Background("judged weights")
        self._keeping: Background[None] = Background("best checkpoint")
        self._asking: Background[Heard] = Background("verdicts")
        self._is_asking, self._asked_at, self._untaken = False, clock(), 0
        self._next_at = self._news_at = self._offered_at = clock()
        self._offered = 0  # the last version that was offered
        self._offers = 0  # of its pieces, since the last verdict, beyond the first
        self._take_best()

    def _take_best(self) -> None:
        """The best checkpoint may have been found after the checkpoint that this life continues from."""
        path = checkpoints.best(self.session.run.checkpoints)
        if path is not None and not checkpoints.damage(path):
            self.monitor.at_least(checkpoints.load_state(path).owners.get("rolling"))

    def look(self, fence: int) -> None:
        """Gather what has come, conclude what is complete, and offer the newest weights where that is due.

        Raises:
            FencedOut, QueueLost: as `Pieces.put_out`.
        """
        self._settle()
        if self.judgement is not None and self.judgement.fence != fence:
            self._end_partial()
        if self.judgement is not None and self.judgement.complete:
            self._conclude(self.judgement)
        step = self.session.learner.step
        if step > self._offered and self.clock() >= self._next_at and (self.judgement is None or self._untouched()):
            self._offer(fence, step)
        elif self.judgement is not None and not self._is_asking and self.clock() - self._asked_at >= ASK_S:
            self._is_asking, self._asked_at = True, self.clock()
            self._asking.start(partial(self._ask, self.judgement))

    def finish(self, fence: int, wanted: Callable[[], bool], timeout_s: float) -> None:
        """Training has ended: judge the last weights too, as long as they are `wanted` and verdicts come within
        `timeout_s` of each other."""
        self._settle(wait=True)
        step = self.session.learner.step
        if step > self._offered:
            self._end_partial()
            self._offer(fence, step)
            self._settle(wait=True)
        self._news_at = self.clock()
        while self.judgement is not None and wanted() and self.clock() - self._news_at < timeout_s:
            time.sleep(POLL_S)
            self._hear(self._ask(self.judgement))
            self.session.report_soon()
            if self.judgement.complete:
                self._conclude(self.judgement)
        self._settle(wait=True)

    def close(self) -> None:
        """Record what is known of the version under judgement; it is no more than a part."""
        self._sending.close(timeout_s=10.0)
        self._asking.close(timeout_s=10.0)
        self._keeping.close(timeout_s=60.0)
        self._end_partial()
        log.info("the rolling evaluation took %.2f s of the trainer's time", self.seconds)

    def _ask(self, judgement: RollingVerdict) -> Heard:
        """In a thread, but at a run's end."""
        expected = [self._piece(judgement, number) for number in judgement.open]
        verdicts = self.pieces.gather(expected, lambda number: judgement.pieces[number])
        return Heard(judgement, verdicts, self.pieces.untaken())

    def _hear(self, heard: Heard) -> None:
        judgement, now = heard.judgement, self.clock()
        if judgement is not self.judgement:
            return
        self._untaken = heard.untaken
        for verdict in heard.verdicts:
            judgement.add(verdict.number, sum(verdict.clean), sum(verdict.robust))
            self._news_at, self._offers = now, 0
        state = self.session.state
        state.rolling_judged, state.rolling_judged_robust = judgement.samples, judgement.robust
        state.rolling_judged_version = judgement.version
        self._offer_again(judgement, now)

    def _offer_again(self, judgement: RollingVerdict, now: float) -> None:
        """Pieces that somebody took long ago: their worker may have died."""
        if not judgement.open or now - max(self._news_at, self._offered_at) < AGAIN_S:
            return
        self._offered_at = now
        if self._untaken:
            return
        self._offers += 1
        if self._offers >= MOST_OFFERS:
            log.warning("version %d is not judged to its end: pieces of it fail or get lost", judgement.version)
            self._end_partial()
        else:
            self.pieces.put_out([self._piece(judgement, number) for number in judgement.open], anew=False)

    def _untouched(self) -> bool:
        """Nobody has had time for the version on offer."""
        judgement = self.judgement
        if judgement is None or judgement.samples or self.clock() - self._offered_at < STALE_S:
            return False
        return self._untaken == len(judgement.pieces)

    def _conclude(self, judgement: RollingVerdict) -> None:
        """All pieces are judged."""
        began, kept = self.clock(), self._kept
        improved = self.monitor.conclude(judgement)
        if improved and kept is not None:
            self._settle(wait=True)
            owners = {**kept.checkpoint.owners, "rolling": self.monitor.state()}
            keep, folder = self.session.config.checkpoint.keep, self.session.run.checkpoints
            checkpoint = replace(kept.checkpoint, owners=owners)
            self._keeping.start(partial(_write_best, folder, kept.networks, checkpoint, keep))
        self._record(judgement, best=improved)
        if self.monitor.enough:
            log.warning(
                "training ends early: the last %d judged versions are not better than version %d "
                "(evaluation.rolling_patience)",
                self.monitor.since_best,
                self.monitor.best_version,
            )
        self.judgement = self._kept = None
        self._spent(began)

    def _end_partial(self) -> None:
        if self.judgement is not None and self.judgement.samples:
            self._record(self.judgement, best=False)
        self.judgement = self._kept = None

    def _record(self, judgement: RollingVerdict, *, best: bool) -> None:
        weights = "plain" if self.session.learner.average is None else "ema"
        self.session.recorder.rolling(judgement, self.asked.panel.description, weights, best)
        state = self.session.state
        state.rolling_best = self.monitor.best if self.monitor.best >= 0 else None
        state.rolling_best_version = self.monitor.best_version

    def _offer(self, fence: int, version: int) -> None:
        """Copy the present weights and send them; the pieces follow when they have been sent."""
        began, learner = self.clock(), self.session.learner
        checkpoint = copied(self.session.training.checkpoint())
        self._kept = Kept({name: Copied(network) for name, network in learner.networks.items()}, checkpoint)
        judged = self._kept.networks["model" if learner.average is None else "ema"]
        self.judgement = judgement = RollingVerdict(fence, version, [len(piece) for piece in self.asked.pieces])
        self._offered, self._offered_at, self._asked_at, self._untaken, self._offers = version, began, began, 0, 0
        self._sending.start(partial(self._send, judgement, judged))
        self._spent(began)

    def _send(self, judgement: RollingVerdict, judged: Copied) -> None:
        """In the thread."""
        snapshot = Snapshot(judgement.fence, judgement.version, Controls(0.0), arrays_of(judged.state_dict()))
        self.route.publish(snapshot)
        pieces = [self._piece(judgement, number) for number in range(len(judgement.pieces))]
        self.pieces.put_out(pieces, anew=True)

    def _settle(self, wait: bool = False) -> None:
        """What the threads have ended; raises as they do."""
        kept, sent = self._keeping.settle(wait=wait), self._sending.settle(wait=wait)
        heard = self._asking.settle(wait=wait)
        if kept is not None:
            kept.result()
        if heard is not None:
            self._is_asking = False
            self._hear(heard.result())
        if sent is not None:
            with suppress(QueueLost):  # the loop's next request finds that out, and starts over
                sent.result()

    def _piece(self, judgement: RollingVerdict, number: int) -> Piece:
        return Piece(judgement.fence, judgement.version, number, self.asked.sample.fingerprint)

    def _spent(self, began: float) -> None:
        """The next version is offered when this one's cost is a SHARE of the time."""
        now = self.clock()
        self.seconds += now - began
        self._next_at = max(now, self._next_at) + (now - began) / SHARE


def _write_best(folder: Path, networks: Mapping[str, Copied], checkpoint: Checkpoint, keep: int) -> None:
    checkpoints.save(folder, networks, checkpoint, keep, best=True)


def rolling_of(session: Session, pieces: Pieces, route: Callable[[], Route]) -> Rolling | None:
    """That of a run whose settings ask for it."""
    if session.asked is None or session.rolling is None:
        return None
    return Rolling(session, session.asked, session.rolling, pieces, route())
