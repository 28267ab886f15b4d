"""The trainer's loop over the queue: collect M shards, enforce the bound, train, publish. It imports no Ray.

publish the weights
until every epoch is consumed:
    at the epoch of pruning, with nothing outstanding: decide which examples are kept
    issue tickets while there are permits
    wait for the shards of a step (and attack meanwhile, if the trainer's device would be idle)
    drop shards staler than the bound; their tickets are issued again
    refresh, train, record
    every K steps begin to publish the weights, then return the permits of the step's shards

Where several trainers share the steps (`trainer.count`), this is rank 0's; the others' is follower.py.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import torch

from sparring.config import (
    exchanges,
    tickets_at_once,
    trainer_attacks,
    trainer_threads,
    trainer_would_idle,
    with_workers,
)
from sparring.engines.asynchronous.broadcaster import Broadcaster
from sparring.engines.asynchronous.inbox import Arrivals
from sparring.engines.asynchronous.leader import OneTrainer, Trainers
from sparring.engines.asynchronous.own_attack import attack_a_little, own_attacks
from sparring.engines.asynchronous.pace import Pace
from sparring.engines.asynchronous.rolling import AGAIN_S, Rolling
from sparring.engines.asynchronous.tickets import Tickets
from sparring.errors import SparringError
from sparring.queue.ledger import Ledger
from sparring.queue.messages import TRAINER, Key, Missing, RankOf, Returned, Shard
from sparring.queue.transport import QueueLost, Transport
from sparring.trainer.checkpoints import Checkpoint
from sparring.trainer.experiment import Experiment
from sparring.trainer.learner import StepResult
from sparring.trainer.session import Session

log = logging.getLogger(__name__)
HOUSEKEEPING_S = 0.2
WAIT_S = 0.05
REPUBLISH_S = 5.0
JUDGED_WITHIN_S = 2.5 * AGAIN_S  # at a run's end, from one verdict to the next: lost pieces are offered again


class Loop:
    """Trains from `resumed` to the end of the run.

    The target number of workers may change meanwhile. The permits in flight, the threads and whether the trainer
    attacks itself depend on it.
    """

    def __init__(
        self,
        session: Session,
        experiment: Experiment,
        transport: Transport,
        broadcaster: Broadcaster,
        inbox: Arrivals,
        *,
        resumed: Checkpoint | None = None,
        clock: Callable[[], float] = time.monotonic,
        trainers: Trainers | None = None,
        rolling: Rolling | None = None,
    ) -> None:
        self.session, self.experiment, self.transport = session, experiment, transport
        self.rolling = rolling
        self.broadcaster, self.clock = broadcaster, clock
        self.trainers = OneTrainer(session) if trainers is None else trainers
        self.config, self.plan, self.learner = experiment.config, experiment.plan, session.learner
        self.exchange = exchanges(self.config.staleness)
        self.workers = -1
        self._apply_target(transport.target_count())
        self.tickets = Tickets(session, transport, self.trainers.count, resumed)
        self.pace = Pace(self.plan.shards_per_step)
        me = RankOf(0, self.trainers.count)
        self.own = own_attacks(experiment, self.learner, session.heads, transport, clock, me)
        self._recorded = self.learner.step  # the last step that the ledger knows of
        self._housekept_at = 0.0
        self._inbox = inbox

    @property
    def ledger(self) -> Ledger:
        return self.tickets.ledger

    @property
    def fence(self) -> int:
        return self.tickets.fence

    def run(self) -> str:
        """Train to the end of the run; returns how it ended: finished, stopped or interrupted."""
        self._inbox.start(self.tickets.objection)
        try:
            self.trainers.begin(self.fence)
            self._publish(older=True)
            while not self.ledger.finished and not self.session.should_stop():
                if self.ledger.held:
                    self._prune()
                elif keys := self.collect():
                    self.step(keys)
            self.broadcaster.settle()
            self._judge_the_last()
        finally:
            self._inbox.close()
            self.broadcaster.close()
            if self.rolling is not None:
                self.rolling.close()
        self._count()
        return self._ended(self.session.finish())

    def _judge_the_last(self) -> None:
        """The weights of a run's last step are judged too, unless it is to stop or has ended early."""
        if self.rolling is None or self.session.stop_reason is not None or self.session.enough:
            return
        state = self.session.state
        state.message = "the last weights are judged on held-out examples"
        run = self.session.run
        self.rolling.finish(
            self.fence, lambda: not run.stop_requested() and not self.transport.stop_requested(), JUDGED_WITHIN_S
        )
        state.message = ""

    def _ended(self, phase: str) -> str:
        """`phase`, or `incomplete` where more examples were not trained on than queue.missing_share allows."""
        total = sum(self.plan.examples(epoch) for epoch in range(self.plan.epochs))
        allowed = self.config.queue.missing_share * total
        return "incomplete" if phase == "finished" and self.session.state.missing > allowed else phase

    def step(self, keys: tuple[Key, ...]) -> None:
        """Train on the shards of `keys`, publish if that is due, and only then return their permits."""
        taken = [self.tickets.shards.pop(key) for key in keys]
        shards, arrivals = [shard for shard, _ in taken], [arrived_at for _, arrived_at in taken]
        for shard in shards:
            self._require_within_bound(shard)
        began = self.clock()
        shards = self.trainers.take(shards, self._refresh_steps(len(shards)))
        refreshed = self.clock()
        self._watch_staleness(shards)
        watched = self.clock()
        result = self.learn(shards, arrivals)
        self.ledger.trained(keys)
        self._recorded = self.learner.step
        self.pace.stepped(refreshed - began + self.clock() - watched, len(shards))
        own = sum(shard.worker.startswith(TRAINER) for shard in shards)
        self.session.state.trainer_shards += own
        self.session.state.worker_shards += len(shards) - own
        log.debug("step %d loss %.4f", self.learner.step, result.loss)
        if self.learner.step % self.session.staleness.remedies.publish_every == 0:
            self._publish()
        epoch = self.ledger.epoch
        self.ledger.retire(keys)
        self._count()
        self.session.after_step(last_of_epoch=self.ledger.epoch != epoch)

    def learn(self, shards: list[Shard], arrivals: list[int]) -> StepResult:
        """One training step."""
        return self.session.learn(shards, self.trainers.batch(shards), arrivals)

    def _watch_staleness(self, shards: list[Shard]) -> None:
        """Compare what is here of a step's shards with a fresh attack, if that is due."""
        if here := self.trainers.here(shards):
            self.session.watch_staleness(here)

    def _prune(self) -> None:
        """At the barrier: decide which examples are kept, and lift it."""
        if self.session.ready_for(self.ledger.epoch, self._meanwhile):
            self.ledger.lift()
            self.trainers.begin(self.fence)  # the others learn what is kept

    def _meanwhile(self) -> None:
        """Housekeeping while pruning takes long; nothing is outstanding then."""
        try:
            self._housekeep()
        except QueueLost:
            self._start_over()

    def _require_within_bound(self, shard: Shard) -> None:
        """A backstop: the ledger has dropped shards that are too stale.

        Raises:
            SparringError: the shard is staler than staleness.max_staleness.
        """
        staleness, bound = self.learner.step - shard.version, self.config.staleness.max_staleness
        if staleness > bound:
            raise SparringError(
                f"shard {shard.key} of {shard.worker or 'a worker'} is {staleness} steps stale, "
                f"staleness.max_staleness = {bound}: it must not be trained on. Please report this as a bug; "
                f"`sparring resume` continues from the last checkpoint."
            )

    @property
    def between_steps(self) -> bool:
        """Weights and ledger agree, so that a checkpoint may be written: what is consumed and not trained on is not
        done."""
        return not self.learner.changing and self.learner.step == self._recorded

    def collect(self) -> tuple[Key, ...] | None:
        """Wait for the shards of a step, none staler than the bound; None if the run is to stop or to be pruned.

        Raises:
            SparringError: no shard came for too long.
        """
        began = waiting_since = since = self.clock()
        idle, seen = 0.0, self.pace.arrivals
        while not self.session.should_stop() and not self.ledger.finished and not self.ledger.held:
            came = self._drain(block=False)
            try:
                self._housekeep()
                self.issue()
                self._issue_copies(since)
            except QueueLost:
                self._start_over()
                continue
            taken = self.ledger.take(self.learner.step)
            if taken is not None:
                self._discard(taken.dropped)
                if taken.keys:
                    self.pace.idled(idle)
                    return taken.keys
                continue
            busy = came or self._attack_a_little()
            if not busy:
                paused = self.clock()
                busy = self._drain(block=True)
                idle += self._waited(paused)
            if self.pace.arrivals > seen or self.own.ready:  # a shard that is missing or refused is none
                waiting_since, seen = self.clock(), self.pace.arrivals
            if self.clock() - began > REPUBLISH_S:
                self._publish(older=True)  # in case the snapshot store was restarted and lost them
                began = self.clock()
            self._give_up_after(waiting_since)
        return None

    def _issue_copies(self, since: float) -> None:
        """Once the step has waited for its shards for long, others are to attack what is missing, too."""
        times = self.config.staleness.copy_after
        if times is None or not self.session.heads.on:
            return
        waited_s = self.clock() - since
        self.pace.waits(self.learner.step, self.ledger.ready, waited_s)
        if self.pace.is_late(waited_s, times):
            self.session.state.copies += self.tickets.issue_copies(self.broadcaster.published)

    def issue(self) -> None:
        """Issue as many tickets as there are permits."""
        ahead = self.session.staleness.remedies.depth
        in_flight = self.in_flight if self.exchange and ahead > 0 else None
        self.tickets.issue(ahead, in_flight, self.broadcaster.published)

    @property
    def in_flight(self) -> int:
        """Permits for shards being attacked, with in-flight exchange."""
        trainers = self.config.trainer.count if self.attacks_itself else 0
        at_once = tickets_at_once(self.config, self.experiment.attack.makes_views)
        return self.pace.in_flight(self.workers * at_once + trainers)

    def _publish(self, older: bool = False) -> None:
        """Begin to broadcast the present weights, and before them the `older` ones that a fresh finish still needs."""
        heads = self.session.heads
        if heads.on:
            heads.remember()
        self.broadcaster.start(self.fence, heads.older() if older and heads.on else ())

    def _refresh_steps(self, shards: int) -> int:
        """Further attack steps on the shards of a step; `auto`: as many as fit into the time that the device idles."""
        wanted = self.session.staleness.remedies.refresh
        if wanted != "auto":
            return wanted
        return self.pace.refresh_steps(shards) if self.idle_device else 0

    def _discard(self, dropped: tuple[Key, ...]) -> None:
        """Forget shards that were too stale; the next attempts at their tickets begin with the newest weights."""
        self.tickets.drop(dropped)
        if dropped and self.broadcaster.published < self.learner.step:
            self._publish()

    def _drain(self, block: bool) -> bool:
        """Record arrived shards in the ledger; `block`: wait WAIT_S for the first one. False: none arrived."""
        received = self._inbox.take(WAIT_S if block else 0)
        for each in received:
            self._arrive(each)
        return bool(received)

    def _arrive(self, received: Shard | Missing) -> None:
        if received.fence != self.fence:
            return
        if isinstance(received, Missing):
            self.tickets.lose(Returned(received.key, received.reason, received.detail))
        elif self.tickets.arrive(received):
            if self.pace.arrivals == 0:
                self.session.start_clock(already=received.attack_seconds)
            self.pace.arrived(received.attack_seconds)

    def _attack_a_little(self) -> bool:
        """Make one step of the trainer's own attack. False: it has no ticket that can go on, or must not attack."""
        busy, shard = attack_a_little(self.own, self.attacks_itself)
        if shard is not None:
            self._arrive(shard)
        return busy

    def _housekeep(self) -> None:
        """Every HOUSEKEEPING_S: lost leases, the own lease, ended broadcasts, the worker target, a stop, the report."""
        now = self.clock()
        if now - self._housekept_at < HOUSEKEEPING_S:
            return
        self._housekept_at = now
        for returned in self.transport.expired(self.fence):
            self.tickets.lose(returned)
        self.broadcaster.settle(wait=False)
        self._apply_target(self.transport.target_count())
        if self.transport.stop_requested():
            self.session.stop_reason = self.session.stop_reason or "stopped"
        self._count()
        self._measure_queue()
        if self.rolling is not None:
            self.rolling.look(self.fence)
        self.session.report_soon()

    def _apply_target(self, wanted: int | None) -> None:
        """Adapt to the target number of workers; None: it is workers.count."""
        count = self.config.workers.count if wanted is None else wanted
        self.session.state.workers_wanted = count
        if count == self.workers:
            return
        self.workers, config = count, with_workers(self.config, count)
        self.attacks_itself, self.idle_device = trainer_attacks(config), trainer_would_idle(config)
        torch.set_num_threads(trainer_threads(config))

    def _start_over(self) -> None:
        """The server was restarted empty: take a new fence and issue again everything that is not consumed."""
        self.broadcaster.settle()  # a broadcast under the old fence would be refused under the new one
        self.tickets.start_over()
        self.own.drop()
        self.trainers.begin(self.fence)
        log.warning("the queue was lost; fence is now %d", self.fence)
        self._publish(older=True)

    def _count(self) -> None:
        self.tickets.count()
        refused = self.session.state.refused
        refused.clear()
        refused.update(self.transport.refused)

    def _measure_queue(self) -> None:
        state, usage = self.session.state, self.transport.usage()
        sizes = self.transport.sizes()
        state.leased = sizes.leased
        self.tickets.reissue_unheld(sum(sizes), self.pace.arrivals, self.clock())
        state.payload_servers_down = usage.payload_servers_down
        state.queue_bytes, state.queue_limit_bytes = usage.memory_bytes, usage.limit_bytes
        state.queue_received_bytes, state.queue_sent_bytes = usage.received_bytes, usage.sent_bytes

    def _waited(self, since: float) -> float:
        seconds = self.clock() - since
        waits, reason = self.session.state.wait_seconds, "shards" if self.pace.arrivals else "first_shard"
        waits[reason] = waits.get(reason, 0.0) + seconds
        return seconds

    def _give_up_after(self, since: float) -> None:
        waited = self.clock() - since
        name = "trainer.wait_timeout_s" if self.pace.arrivals else "workers.start_timeout_s"
        limit = self.config.trainer.wait_timeout_s if self.pace.arrivals else self.config.workers.start_timeout_s
        if waited < limit:
            return
        recent_s = max(10.0, 3 * self.config.queue.lease_s)
        alive = sum(beat["age_s"] < recent_s for beat in self.transport.heartbeats().values())
        raise SparringError(
            f"no shard came for {waited:.0f} s ({name} = {limit:g}): {alive} of workers.count = "
            f"{self.workers} workers sent a heartbeat in the last {recent_s:g} s, "
            f"{self.ledger.outstanding} shards are outstanding"
            + self.tickets.complaints()
            + f". See the logs in the run's folder; raise {name} if an attack takes longer."
        )
