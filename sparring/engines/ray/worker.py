"""The worker as a Ray actor: it leases tickets, attacks them with the newest weights and commits their shards.

With slots a worker attacks several tickets together and leases the next one while slots are free (see `Slots`);
without slots it attacks one at a time. A shard is sent in the background while the next one is made. Where it would
wait for a ticket, it may judge held-out examples (see `Idle`).
"""

from __future__ import annotations

import copy
import logging
import os
import socket
import threading
import time
from collections import deque
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sparring.attacks.starts import unpacked
from sparring.config import (
    exchanges,
    from_tree,
    gate_patience_s,
    last_steps,
    share_of_step,
    slots_of,
    tickets_at_once,
    with_workers,
    worker_threads,
)
from sparring.engines.asynchronous.background import Background
from sparring.engines.ray.actor_inputs import ActorInputs
from sparring.engines.ray.attacks import Attacks, FixedWeights, NewestWeights
from sparring.engines.ray.rolling import Idle
from sparring.engines.ray.snapshots import open_route
from sparring.engines.ray.versions import FetchedVersions
from sparring.engines.ray.weights import Weights
from sparring.errors import SparringError
from sparring.evaluation.rolling import questions
from sparring.machine.devices import device_for
from sparring.machine.gpu import gpu_reading
from sparring.machine.logs import to_file
from sparring.machine.memory import keep_freed_memory
from sparring.machine.watchdog import Watchdog
from sparring.models.forward import for_training
from sparring.queue.connection import QueueRefused, QueueUnavailable
from sparring.queue.messages import Key, Lease, Room, Shard, Stop, Ticket
from sparring.queue.opening import QueueAddress
from sparring.queue.sizing import kept_snapshots
from sparring.queue.transport import QueueFull, Transport
from sparring.runs import Run
from sparring.trainer.experiment import Experiment, build_experiment
from sparring.workers.attackers import attacker_of
from sparring.workers.finish import Finisher
from sparring.workers.gate import Gate
from sparring.workers.task import Task

log = logging.getLogger(__name__)
LEASE_WAIT_S = 0.5
LEAVE_WITHIN_S = 30.0  # then a worker that is to leave hands unfinished tickets back


class Worker:
    """Serves tickets until the run is stopped. Its constructor can run again after a crash."""

    def __init__(
        self,
        tree: dict[str, Any],
        name: str,
        run_path: str,
        run_id: str,
        queue: QueueAddress,
        store: str,
        inputs: ActorInputs,
    ) -> None:
        live = inputs.unpack()
        self.config, self.name = from_tree(tree), name
        self.log_file = Run(Path(run_path)).path / "logs" / f"{name}.log"
        to_file(self.log_file)
        starting = Watchdog(self.config.workers.hang_timeout_s, self.log_file)
        keep_freed_memory()
        settings = self.config.queue

        def transport() -> Transport:
            return queue.transport(settings, run_id, self.config.trainer.count)

        self.transport, self.beating = transport(), transport()
        self.transport.check_protocol()
        self.target_count = self.transport.target_count() or self.config.workers.count
        self.share_cores()
        experiment = build_experiment(self.config, live, with_helper=False)
        self.dataset = experiment.training
        self.device = device_for("auto", self.config.workers.num_gpus)
        model = copy.deepcopy(experiment.model).to(self.device).eval().requires_grad_(False)
        self.model = for_training(model, self.config.model)
        helper = None if experiment.helper is None else experiment.helper.network.to(self.device).eval()
        self.context = experiment.context(self.model, helper)
        self.leases: dict[tuple[int, Key], Lease] = {}  # of the tickets being attacked, by fence and key
        self.made: list[tuple[Lease, Shard]] = []  # finished, not yet sent
        self.pushing: Background[bool] = Background("push")
        self.under_way: tuple[Lease, Shard] | None = None  # being sent
        self.lost: deque[Lease] = deque()  # leases that the heartbeat could not renew
        self.starved = False  # there was no ticket when it looked last, and it has none
        self.alone = 0  # tickets that are to be attacked one by one
        self.stopping = threading.Event()
        self.leave_by: float | None = None  # deadline for finishing its tickets, once it is to leave
        self.counts: dict[str, Any] = {
            "shards": 0,
            "gradients": 0,
            "abandoned": 0,
            "busy_seconds": 0.0,
            "attack_seconds": 0.0,
            "wait_seconds": {"ticket": 0.0, "weights": 0.0},
            "allocated": dict.fromkeys(() if experiment.allocator is None else experiment.allocator.classes, 0),
        }
        self.idle = self._idle(experiment, store)
        self.attacks = self._attacks(experiment, store)
        starting.stop()

    def _idle(self, experiment: Experiment, store: str) -> Idle | None:
        """What it does instead of waiting, where the settings ask for that."""
        settings = self.config.evaluation
        if not settings.rolling:
            return None
        asked = questions(settings, experiment.heldout, experiment.threat, self.config.train.seed)
        model = copy.deepcopy(experiment.model).to(self.device).eval().requires_grad_(False)
        route = open_route(self.config, experiment.snapshot_bytes, self.beating, store, "judged")
        return Idle(self.name, model, self.device, asked, self.transport.pieces(), route)

    def _attacks(self, experiment: Experiment, store: str) -> Attacks:
        settings, helper = self.config.staleness, experiment.changing_helper
        timeout_s, waits = self.config.trainer.wait_timeout_s, self.counts["wait_seconds"]
        route = open_route(self.config, experiment.snapshot_bytes, self.beating, store)
        if settings.finish != "off":
            versions = FetchedVersions(route, self.model, keep=kept_snapshots(settings), helper=helper)
            finisher = Finisher(self.context, versions, last_steps(settings, experiment.attack.steps))
            gate = Gate(finisher, share_of_step(self.config), gate_patience_s(self.config))
            meanwhile = None if self.idle is None else self.idle.step
            return FixedWeights(finisher, gate, versions, waits, timeout_s=timeout_s, meanwhile=meanwhile)
        views = experiment.attack.makes_views
        return NewestWeights(
            attacker_of(self.context, slots_of(self.config, views), hold_back=self.config.allocator.hold_back),
            Weights(route, self.model, lockstep=settings.lockstep, timeout_s=timeout_s, helper=helper),
            waits,
            exchange=exchanges(settings),
            most_tickets=tickets_at_once(self.config, views),
        )

    def serve(self) -> str:
        """Lease and attack until it is asked to stop or to leave; returns which of the two."""
        self.stopping.clear()
        self.leave_by = None
        beat = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        beat.start()
        self.watchdog = Watchdog(self.config.workers.hang_timeout_s, self.log_file)
        try:
            while not self.stopping.is_set() and not self._has_left():
                self.watchdog.tick()
                self.share_cores()
                self.take_tickets()
                self.free_lost()
                self.advance()
                self.settle_push(wait=False)
                self.judge()
            self._hand_all_back()
        finally:
            self.watchdog.stop()
            self.stopping.set()
            if self.idle is not None:
                self.idle.close()
            beat.join(timeout=5)
        return "stopped" if self.leave_by is None else "left"

    def share_cores(self) -> None:
        """Use an equal share of the cores, which changes with the number of workers."""
        threads = worker_threads(with_workers(self.config, self.target_count).workers, self.config.trainer.count)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)

    def take_tickets(self) -> None:
        """Lease as many tickets as there is room for; wait for one only if there is nothing else to do.

        Finished shards are sent after the first lease: at the same time the two requests would delay each other.
        """
        while (room := self._room()) != "none":
            began = time.monotonic()
            idle = not self.leases
            waits = idle and not self.made and (self.idle is None or not self.idle.ready)
            lease = self.transport.lease(self.name, self._lease_wait_s if waits else 0.0, room)
            self.starved = lease is None and idle
            if isinstance(lease, Lease):
                self.leases[lease.owner] = lease  # at once: what follows may wait, and leases must be renewed meanwhile
            if idle:
                self.counts["wait_seconds"]["ticket"] += time.monotonic() - began
            self.push_made()
            if isinstance(lease, Stop):
                self.obey(lease)
            elif lease is None:
                return
            else:
                self._begin(lease)
        self.push_made()

    @property
    def _lease_wait_s(self) -> float:
        """A worker that judges looks for pieces, and for their weights, in between."""
        return LEASE_WAIT_S if self.idle is None else LEASE_WAIT_S / 10

    def judge(self) -> None:
        """Make one pass on held-out examples, where there was no ticket or this is behind its share of the time."""
        if self.idle is None or self.stopping.is_set() or self.leave_by is not None:
            return
        share, worked_s = self.config.evaluation.rolling_share, self.idle.seconds + self.counts["busy_seconds"]
        if self.starved or self.idle.seconds < share * worked_s:
            self.idle.step()

    def push_made(self) -> None:
        """Send finished shards one after the other, without waiting for the last one."""
        for lease, shard in self.made:
            self.settle_push()
            self.under_way = lease, shard
            self.pushing.start(partial(self.transport.commit, lease, shard))
        self.made.clear()

    def advance(self) -> None:
        """Make one attack step on all tickets; an exception costs each of them one attempt."""
        if not self.leases or self.stopping.is_set():
            return
        began, waited = time.monotonic(), self._not_attacking_s()
        try:
            shards = self.attacks.advance()
        except Exception as error:  # whatever a user's method raises
            self.attacks.clear()
            self._failed_together(list(self.leases.values()), error)
            return
        self.made += [(self.leases.pop((shard.fence, shard.key)), shard) for shard in shards]
        self.counts["busy_seconds"] += time.monotonic() - began - (self._not_attacking_s() - waited)

    def _not_attacking_s(self) -> float:
        """Seconds that it waited for weights or judged meanwhile, in all."""
        waits: dict[str, float] = self.counts["wait_seconds"]
        judged_s = 0.0 if self.idle is None else self.idle.seconds
        return judged_s + sum(seconds for reason, seconds in waits.items() if reason != "ticket")

    def settle_push(self, wait: bool = True) -> None:
        """Count the shard that has been sent; an exception costs its ticket one attempt."""
        push = self.pushing.settle(wait=wait)
        if push is None or self.under_way is None:
            return
        (lease, shard), self.under_way = self.under_way, None
        error = push.exception()
        if isinstance(error, (QueueFull, QueueUnavailable, QueueRefused)):
            log.warning("ticket %s: %s", lease.ticket.key, error)
            self.transport.refuse(lease, "queue_full", str(error))
        elif isinstance(error, Exception):
            self._fail(lease, error)
        elif not push.result():
            self.counts["abandoned"] += 1
        else:
            self.counts["shards"] += 1
            self.counts["gradients"] += shard.gradients
            self.counts["attack_seconds"] = shard.attack_seconds
            for name, count in shard.classes.items():
                self.counts["allocated"][name] += count

    def _room(self) -> Room:
        if (self.alone and self.leases) or self.leave_by is not None or self.stopping.is_set():
            return "none"
        return self.attacks.room(len(self.leases))

    def obey(self, stop: Stop) -> None:
        """Stop at once and hand all tickets back, or take no more and finish those within LEAVE_WITHIN_S."""
        if stop is Stop.STOP:
            self.stopping.set()
        elif self.leave_by is None:
            self.leave_by = time.monotonic() + LEAVE_WITHIN_S

    def _has_left(self) -> bool:
        return self.leave_by is not None and (not self.leases or time.monotonic() > self.leave_by)

    def free_lost(self) -> None:
        """Drop tickets whose leases are lost or whose shards nobody waits for; the others continue."""
        for owner in self.attacks.passed():
            if (late := self.leases.get(owner)) is not None:
                self._hand_back(late)
        while self.lost:
            lease = self.lost.popleft()
            if self.leases.get(lease.owner) is lease:
                self.attacks.drop(lease.owner)
                self.counts["abandoned"] += 1
                del self.leases[lease.owner]

    def renew(self) -> None:
        """Renew the leases of all tickets and of shards that are not sent yet; note those that are lost."""
        for owner, lease in self.leases.copy().items():
            if not self.beating.renew(lease) and self.leases.get(owner) is lease:
                self.lost.append(lease)
        finished = [lease for lease, _ in self.made.copy()]
        if (under_way := self.under_way) is not None:
            finished.append(under_way[0])
        for lease in finished:
            self.beating.renew(lease)

    def _begin(self, lease: Lease) -> None:
        """Begin the attack on a ticket, or hand it back where nobody waits for it."""
        self.alone = max(0, self.alone - 1)
        ticket, began, waited = lease.ticket, time.monotonic(), self._not_attacking_s()

        def task_of(epsilon: float) -> Task:
            start = unpacked(ticket.starts, self.dataset.shape, epsilon)
            return Task(ticket.key, ticket.indices, ticket.fence, self.name, start)

        try:
            self._require_same_data(lease.ticket)
            if not self.attacks.begin(ticket, task_of, lambda: self._abandoned(lease)):
                self._hand_back(lease)
        except Exception as error:
            self._fail(lease, error)
        finally:
            self.counts["busy_seconds"] += time.monotonic() - began - (self._not_attacking_s() - waited)

    def _require_same_data(self, ticket: Ticket) -> None:
        if ticket.fingerprint != self.dataset.fingerprint:
            raise SparringError(
                f"data.name = {self.config.data.name!r}: this host's training set (fingerprint "
                f"{self.dataset.fingerprint}) is not the trainer's ({ticket.fingerprint}). Give all hosts the same, "
                f"and leave them as they are while a run trains."
            )

    def _failed_together(self, leases: list[Lease], error: Exception) -> None:
        """One ticket counts as failed. Of several nobody knows whose fault it was: as many are attacked alone next."""
        if len(leases) == 1:
            self._fail(leases[0], error)
            return
        log.error("%d tickets failed together", len(leases), exc_info=error)
        self.alone = len(leases) + 1  # counted down when one begins
        for lease in leases:
            del self.leases[lease.owner]
            self.transport.refuse(lease, "failed_together", f"{type(error).__name__}: {str(error)[:500]}")

    def _fail(self, lease: Lease, error: Exception) -> None:
        log.error("ticket %s failed", lease.ticket.key, exc_info=error)
        self.leases.pop(lease.owner, None)
        self.transport.fail(lease, f"{type(error).__name__}: {str(error)[:500]}")

    def _hand_back(self, lease: Lease) -> None:
        self.counts["abandoned"] += 1
        del self.leases[lease.owner]
        self.transport.hand_back(lease)

    def _hand_all_back(self) -> None:
        self.push_made()
        self.settle_push()
        self.attacks.clear()
        for lease in list(self.leases.values()):
            self._hand_back(lease)

    def _abandoned(self, lease: Lease) -> bool:
        """Nobody waits for this ticket any more. It is asked again and again where the worker waits for weights."""
        self.watchdog.tick()
        return self.stopping.is_set() or any(lost is lease for lost in self.lost.copy())

    def _beat(self) -> None:
        """In a thread: renew the leases, send a heartbeat, notice a stop."""
        interval = min(1.0, self.config.queue.lease_s / 4)
        while not self.stopping.wait(interval):
            try:
                self.renew()
                self.beating.heartbeat(self.name, self._fields())
                self.target_count = self.beating.target_count() or self.target_count
                if stop := self.beating.stopping(self.name):
                    self.obey(stop)
            except Exception as error:  # a lease that is not renewed is lost
                log.warning("heartbeat: %s", error)

    def _fields(self) -> dict[str, Any]:
        return {
            **self.counts,
            "version": self.attacks.version,
            "swaps": self.attacks.swaps,
            "judge_seconds": 0.0 if self.idle is None else self.idle.seconds,
            "judged_pieces": 0 if self.idle is None else self.idle.pieces_done,
            "pid": os.getpid(),
            "node": socket.gethostname(),
            "time": time.time(),
            **gpu_reading(self.device),
        }
