"""Rank 0 among the trainers of a run: it decides what is trained on next, and the others follow its orders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol

from torch.distributed import Store  # type: ignore[attr-defined]

from sparring.engines.asynchronous.shared_step import LeaderState, as_trainer, own_batch, refreshed
from sparring.engines.ranks import RankLost, Ranks, joined, wait_for_all
from sparring.errors import SparringError
from sparring.objectives import Batch
from sparring.queue.messages import Missing, Shard
from sparring.queue.orders import Begin, End, Order, Orders, Step, own
from sparring.queue.transport import QueueLost
from sparring.trainer.session import Session


class Trainers(Protocol):
    """With whom the loop's trainer shares its steps; `count`: how many trainers there are."""

    @property
    def count(self) -> int: ...

    def begin(self, fence: int) -> None:
        """All trainers take over the present weights and state; the queue has this `fence` now."""

    def take(self, shards: list[Shard], refresh: int) -> list[Shard]:
        """Begin a step; its shards with `refresh` more attack steps under the present weights."""

    def here(self, shards: list[Shard]) -> list[Shard]:
        """Those of the step's shards whose perturbations are in this process."""

    def batch(self, shards: list[Shard]) -> Batch | None:
        """This trainer's examples of the step that was taken; None: all of them."""


class OneTrainer:
    """A trainer that shares its steps with nobody."""

    count = 1

    def __init__(self, session: Session) -> None:
        self._session = session

    def begin(self, fence: int) -> None:
        """There is nobody to tell."""

    def take(self, shards: list[Shard], refresh: int) -> list[Shard]:
        return self._session.refreshed(shards, refresh) if refresh else shards

    def here(self, shards: list[Shard]) -> list[Shard]:
        return shards

    def batch(self, shards: list[Shard]) -> Batch | None:
        return None


class Leader:
    """Rank 0: the other ranks hold the shards of their own parts and only report them here."""

    def __init__(self, session: Session, ranks: Ranks[LeaderState], orders: Orders) -> None:
        self._session, self._ranks, self._orders = session, ranks, orders
        self.count = ranks.count
        self._fence = 0
        self._step = Step(0, (), (), ())

    def begin(self, fence: int) -> None:
        self._fence = fence
        self._give(Begin(fence))
        pruning, heads = self._session.plan.pruning, self._session.heads
        kept = None if pruning is None or pruning.kept is None else pruning.kept.tolist()
        self._ranks.begin(LeaderState(kept, heads.state()))

    def take(self, shards: list[Shard], refresh: int) -> list[Shard]:
        session = self._session
        self._step = step = Step(
            session.learner.step,
            tuple(shard.key for shard in shards),
            tuple(shard.version for shard in shards),
            tuple(len(shard.labels) for shard in shards),
            session.staleness.remedies.half_life,
            refresh,
        )
        self._give(step)
        session.state.refresh_steps += refresh * len(shards)
        made = refreshed(self._ranks, step, dict(enumerate(shards)))
        return [made[place] for place in range(len(shards))]

    def here(self, shards: list[Shard]) -> list[Shard]:
        return [shards[place] for place in self._own(shards)]

    def batch(self, shards: list[Shard]) -> Batch | None:
        return own_batch(self._ranks, self._step, {place: shards[place] for place in self._own(shards)})

    def reported(self, timeout_s: float) -> list[Shard | Missing]:
        """What the others have fetched; see `Orders.reported`."""
        return self._orders.reported(timeout_s)

    def end(self) -> None:
        """Let the others end."""
        with suppress(SparringError):  # of a server that is gone, or of a later start of the run
            self._orders.give(End(), self._fence)

    def _give(self, order: Order) -> None:
        """Order the others.

        Raises:
            RankLost: the queue was restarted empty: whether they know of the last step cannot be told.
        """
        try:
            self._orders.give(order, self._fence)
        except QueueLost as error:
            raise RankLost(f"{error} All trainers start again.") from error

    def _own(self, shards: Sequence[Shard]) -> list[int]:
        return own([shard.key for shard in shards], self._ranks.rank, self._ranks.count)


@contextmanager
def leading(session: Session, orders: Orders, store: Store) -> Iterator[Leader]:
    """Meet the other ranks, and lead them until the end of the block."""
    config, learner = session.config, session.learner
    count = config.trainer.count
    wait_for_all(store, 0, count, config.workers.start_timeout_s)
    with joined(learner, 0, count, store, config.trainer.wait_timeout_s):
        ranks = as_trainer(learner, 0)
        leader = Leader(session, ranks, orders)
        try:
            yield leader
        finally:
            leader.end()
