"""A trainer other than rank 0: it takes part in the steps that rank 0 orders, and attacks in between.

until rank 0 orders the end:
    at a beginning: take over its weights and training state
    at a step: refresh and train on the shards of one's own part, which were fetched beside the steps before
    else: attack tickets of the queue, one attack step at a time
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch.distributed import Store  # type: ignore[attr-defined]

from sparring.config import trainer_attacks, trainer_threads, with_workers
from sparring.engines.asynchronous.objections import objection
from sparring.engines.asynchronous.own_attack import attack_a_little, own_attacks
from sparring.engines.asynchronous.part import Part
from sparring.engines.asynchronous.shared_step import LeaderState, as_trainer, own_batch, refreshed
from sparring.engines.ranks import Ranks, joined, wait_for_all
from sparring.errors import NonFinite, SparringError
from sparring.queue.codec import Claims
from sparring.queue.messages import RankOf, Ticket
from sparring.queue.orders import Begin, End, Order, Orders, Step, own
from sparring.queue.transport import Transport
from sparring.trainer.finish import Heads
from sparring.trainer.learner import Learner

log = logging.getLogger(__name__)
WAIT_S = 0.05
HOUSEKEEPING_S = 0.2


class Follower:
    """Follows rank 0. There is no limit to a wait for an order: who started this process ends it when rank 0 has died.

    own: what it attacks itself.
    """

    def __init__(self, ranks: Ranks[LeaderState], transport: Transport, orders: Orders, part: Part) -> None:
        self._ranks, self._transport, self._orders, self._part = ranks, transport, orders, part
        self._learner, self._config = ranks.learner, ranks.learner.config
        self._heads = Heads(self._learner)
        experiment = self._learner.experiment
        me = RankOf(ranks.rank, ranks.count)
        self.own = own_attacks(experiment, self._learner, self._heads, transport, me=me)
        self._workers, self._attacks_itself, self._begun, self._housekept_at = -1, False, False, 0.0

    def run(self, going_on: Callable[[], None] = lambda: None) -> None:
        """Follow until rank 0 orders the end. going_on: called again and again, while nothing hangs."""
        busy = False
        while True:
            going_on()
            orders = self._orders.next(0.0 if busy else WAIT_S)
            for order in orders:
                if isinstance(order, End):
                    return
                self._obey(order)
            self._housekeep()
            busy = bool(orders) or self._attack_a_little()

    def _obey(self, order: Order) -> None:
        if isinstance(order, Begin):
            self._begin(order)
        elif isinstance(order, Step):
            self._take_part(order)

    def _begin(self, order: Begin) -> None:
        """Take over the weights and the training state of rank 0."""
        self.own.drop()
        self._part.begin(order.fence)
        begun, pruning = self._ranks.begin(), self._learner.plan.pruning
        if begun is not None:
            self._heads.restore(begun.heads)
        if begun is not None and pruning is not None:
            pruning.kept = None if begun.kept is None else torch.tensor(begun.kept)
        self._remember()
        self._begun = True

    def _take_part(self, step: Step) -> None:
        """Train on this rank's part of a step. What is not finite is so on every rank: rank 0 decides what follows."""
        if step.version != self._learner.step:
            raise SparringError(
                f"trainer {self._ranks.rank} has made {self._learner.step} steps, rank 0 orders step {step.version}. "
                f"Please report this as a bug."
            )
        mine = own(step.keys, self._ranks.rank, self._ranks.count)
        shards = dict(zip(mine, self._part.take([step.keys[place] for place in mine]), strict=True))
        batch = own_batch(self._ranks, step, refreshed(self._ranks, step, shards))
        try:
            self._learner.learn(batch, step.keys[0].epoch)
            self._remember()
        except NonFinite as error:
            log.warning("%s", error)
            self._begun = False

    def _remember(self) -> None:
        if self._heads.on:
            self._heads.remember()

    def _attack_a_little(self) -> bool:
        """Make one attack step. False: there is no ticket that can go on, or these weights must not attack."""
        if not self._begun:
            return False
        busy, shard = attack_a_little(self.own, self._attacks_itself)
        if shard is not None:
            self._part.add(shard)
        return busy

    def _housekeep(self) -> None:
        """Every HOUSEKEEPING_S: a failure of the fetching thread, the target number of workers."""
        now = time.monotonic()
        if now - self._housekept_at < HOUSEKEEPING_S:
            return
        self._housekept_at = now
        self._part.check()
        wanted = self._transport.target_count()
        self._apply_target(self._config.workers.count if wanted is None else wanted)

    def _apply_target(self, count: int) -> None:
        if count != self._workers:
            self._workers, config = count, with_workers(self._config, count)
            self._attacks_itself = trainer_attacks(config)
            torch.set_num_threads(trainer_threads(config))


def _objection(learner: Learner, claims: Claims) -> str:
    """Why a shard is refused. This rank may still be in the step of which rank 0 has published the weights."""
    indices = learner.plan.indices(claims.key.epoch, claims.key.number)
    ticket = Ticket(claims.key, claims.fence, 0, indices, learner.dataset.fingerprint)
    return objection(claims, ticket, learner.dataset.shape_in(claims.key.epoch), learner.step + 1, learner.knows)


@contextmanager
def following(learner: Learner, rank: int, transport: Transport, orders: Orders, store: Store) -> Iterator[Follower]:
    """Meet rank 0 and the others."""
    config = learner.config
    learner.average = None  # rank 0 keeps it
    wait_for_all(store, rank, config.trainer.count, config.workers.start_timeout_s)
    part = Part(transport, orders, rank, objection=partial(_objection, learner), whole=config.attack.start == "last")
    try:
        with joined(learner, rank, config.trainer.count, store, config.trainer.wait_timeout_s):
            ranks = as_trainer(learner, rank)
            yield Follower(ranks, transport, orders, part)
    finally:
        part.close()
