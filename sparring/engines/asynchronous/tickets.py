"""The tickets of a run, between its ledger and the queue: issued, come, dropped, lost, set aside."""

from __future__ import annotations

import logging

from sparring.engines.asynchronous.objections import objection
from sparring.errors import SparringError
from sparring.queue.codec import Claims
from sparring.queue.ledger import Ledger
from sparring.queue.messages import Key, Returned, Shard, Ticket
from sparring.queue.transport import FencedOut, Transport
from sparring.trainer.checkpoints import Checkpoint
from sparring.trainer.session import Session
from sparring.trainer.starts import LastPerturbations

log = logging.getLogger(__name__)
SET_ASIDE_SHARE = 0.05
UNHELD_S = 10.0


class Tickets:
    """What the trainer has asked for under its fence, and the shards that have come.

    shards: those that no step has taken, each with the step at which it arrived. parts: trainers that share the steps.
    """

    def __init__(self, session: Session, transport: Transport, parts: int, resumed: Checkpoint | None) -> None:
        self._session, self._transport = session, transport
        self._config, self._plan, self._learner = session.config, session.plan, session.learner
        settings = self._config.staleness
        self.ledger = Ledger(
            shards_by_epoch=self._plan.shards_by_epoch,
            shards_per_step=self._plan.shards_per_step,
            depth=session.staleness.remedies.depth,
            max_staleness=settings.max_staleness,
            attempts=self._config.queue.attempts,
            in_order=settings.lockstep or session.heads.on,
            barrier=session.pruner.undecided,
            parts=parts,
        )
        if resumed is not None:
            kept = resumed.ledger
            self.ledger.restore(kept["epoch"], kept["done"], kept["set_aside"])
            self.ledger.dropped.update(session.state.dropped)
        session.training.ledger = self.ledger.state
        self.fence = 0
        self.open()
        self.shards: dict[Key, tuple[Shard, int]] = {}
        self.last_error = ""
        self._asked: dict[Key, Ticket] = {}  # the attempts whose shards have not come
        self._held_at, self._held_arrivals = 0.0, -1  # when tickets were last in somebody's hands

    def open(self) -> None:
        """Take the queue under a fence above every earlier one, the run's and the server's.

        Raises:
            FencedOut: a later start or resume of the run has taken over.
        """
        run = self._session.run
        if self.fence and run.fence > self.fence:
            raise FencedOut(f"this trainer's fence {self.fence} is no longer current: the run was started again.")
        self.fence = run.next_fence(self._transport.current_fence())
        self._transport.open(self.fence)

    def start_over(self) -> None:
        """The server was restarted empty: a new fence; what is not consumed is to be issued again."""
        self.open()
        self.ledger.reissue_everything()
        self.shards.clear()
        self._asked.clear()

    def issue(self, depth: int, in_flight: int | None, published: int) -> None:
        """Issue as many tickets as there are permits, each with the lowest version that its attack may begin with.

        Args:
            depth: steps ahead. in_flight: see `Ledger.permits`. published: the version that was published last.
        """
        self.ledger.depth = depth
        self._send(self.ledger.issue(in_flight), published)

    def issue_copies(self, published: int) -> int:
        """Issue what the next step lacks a second time, so that others can attack it too; how many tickets it was."""
        keys = self.ledger.copies()
        self._send(keys, published)
        return len(keys)

    def _send(self, keys: list[Key], published: int) -> None:
        if not keys:
            return
        tickets = [self._ticket(key, published) for key in keys]
        self._asked.update(zip(keys, tickets, strict=True))
        self._transport.issue(tickets)

    def _ticket(self, key: Key, published: int) -> Ticket:
        indices, starts = self._plan.indices(key.epoch, key.number), self._session.starts
        rows = starts.rows(key, indices) if isinstance(starts, LastPerturbations) else ()
        version, finish = self._session.heads.of(key) if self._session.heads.on else (published, None)
        fingerprint = self._learner.experiment.training.fingerprint
        return Ticket(key, self.fence, version, indices, fingerprint, rows, finish)

    def objection(self, claims: Claims) -> str:
        """Why a shard is not what its ticket asked for; empty: it is, or nobody waits for it. Any thread may ask."""
        ticket, learner = self._asked.get(claims.key), self._learner
        if ticket is None:
            return ""
        return objection(claims, ticket, learner.dataset.shape_in(claims.key.epoch), learner.step, learner.knows)

    def arrive(self, shard: Shard) -> bool:
        """Whether the shard is accepted: its attempt is in work and the first to come."""
        self._asked.pop(shard.key, None)
        accepted = self.ledger.arrive(shard.key, shard.version) == "accepted"
        if accepted:
            self.shards[shard.key] = (shard, self._learner.step)
        return accepted

    def drop(self, keys: tuple[Key, ...]) -> None:
        """Forget shards that were too stale."""
        for key in keys:
            del self.shards[key]

    def lose(self, returned: Returned) -> None:
        """Issue the ticket again; one whose attack failed too often is set aside.

        Raises:
            SparringError: too many are.
        """
        key, reason, error, worker = returned
        self._asked.pop(key, None)
        if reason == "handed_back":
            self.ledger.lose(key, reason)
            return
        self.last_error = error or self.last_error
        log.warning("ticket %s lost: %s %s %s", key, reason, worker, error)
        if reason != "failed":
            self.ledger.lose(key, reason)
            return
        self.ledger.fail(key, worker, kind=error.partition(":")[0])
        share = max(SET_ASIDE_SHARE, self._config.queue.missing_share)
        allowed = 0 if self._session.heads.on else max(3, share * self._plan.shards(0))
        if len(self.ledger.set_aside) > allowed:
            raise SparringError(
                f"{len(self.ledger.set_aside)} tickets were set aside after queue.attempts = "
                f"{self._config.queue.attempts} failed attempts or more each; the last error of a worker: "
                f"{self.last_error}. See the logs in the run's folder. `sparring resume` makes them again."
            )

    def reissue_unheld(self, held: int, arrivals: int, now: float) -> None:
        """Tickets that are issued and in nobody's hands for long, as after damage to the server, are issued again.

        Args:
            held: tickets and shards on the server. arrivals: shards that have come until `now`, in seconds.
        """
        if held or not self.ledger.issued or arrivals != self._held_arrivals:
            self._held_at, self._held_arrivals = now, arrivals
        elif now - self._held_at > UNHELD_S:
            self._held_at = now
            for key in self.ledger.issued:
                self.lose(Returned(key, "unheld"))

    def count(self) -> None:
        """Put what the ledger has counted into the run's state."""
        state, ledger = self._session.state, self.ledger
        state.outstanding, state.ready = ledger.outstanding, ledger.ready
        state.dropped.clear()
        state.dropped.update({reason: count for reason, count in ledger.dropped.items() if count})
        state.set_aside = len(ledger.set_aside)
        state.missing = sum(len(self._plan.indices(key.epoch, key.number)) for key in ledger.set_aside)

    def complaints(self) -> str:
        """What went wrong with shards and attacks, in words; empty: nothing."""
        error = f", the last error of a worker: {self.last_error.rstrip('.')}" if self.last_error else ""
        names = {"payload_missing": "had no payload in Redis", "payload_corrupt": "were damaged or of another run"}
        counts = {name: self.ledger.dropped[name] for name in names}
        found = [f"{count} shards {names[name]}" for name, count in counts.items() if count]
        return error + (f"; {' and '.join(found)}" if found else "")
