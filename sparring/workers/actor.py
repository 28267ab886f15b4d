"""The worker as a Ray actor: lease a ticket, attack with the newest weights, commit the shard, again."""

from __future__ import annotations

import copy
import logging
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch

from sparring.attacks.starts import given
from sparring.config import depth, from_tree
from sparring.errors import SparringError
from sparring.observe.logs import to_file
from sparring.queue.connection import connect
from sparring.queue.transport import Lease, Stop, Transport
from sparring.runs import Run
from sparring.trainer.actor import device_for
from sparring.trainer.session import prepare
from sparring.trainer.snapshots import route
from sparring.workers.generator import Production
from sparring.workers.weights import Weights

log = logging.getLogger(__name__)
LEASE_WAIT_S = 0.5


class Worker:
    """Serves tickets until the run is stopped. Its constructor can run again after a crash."""

    def __init__(
        self,
        tree: dict[str, Any],
        name: str,
        run_path: str,
        run_id: str,
        url: str,
        password: str | None,
        store: str,
        threads: int,
        python_path: list[str],
    ) -> None:
        sys.path[:0] = [path for path in python_path if path not in sys.path]
        self.config, self.name = from_tree(tree), name
        to_file(Run(Path(run_path)).path / "logs" / f"{name}.log")
        torch.set_num_threads(threads)
        settings = self.config.queue

        def transport() -> Transport:
            return Transport(
                connect(url, password, settings.timeout_s),
                run_id,
                lease_s=settings.lease_s,
                timeout_s=settings.timeout_s,
                wire=settings.wire,
                norm=self.config.attack.norm,
            )

        self.transport, self.beating = transport(), transport()
        self.transport.check_protocol()
        parts = prepare(self.config)
        self.dataset = parts.training
        device = device_for("auto", self.config.workers.num_gpus)
        self.model = copy.deepcopy(parts.model).to(device).eval().requires_grad_(False)
        staleness = self.config.staleness
        self.exchange = staleness.exchange and not staleness.lockstep and depth(staleness) > 0
        self.weights = Weights(
            route(self.config, self.model, self.beating, store),
            self.model,
            lockstep=staleness.lockstep,
            timeout_s=self.config.trainer.wait_timeout_s,
        )
        self.current: Lease | None = None
        self.lost = threading.Event()
        self.stopping = threading.Event()
        self.counts: dict[str, Any] = {
            "shards": 0,
            "gradients": 0,
            "abandoned": 0,
            "busy_seconds": 0.0,
            "attack_seconds": 0.0,
            "wait_seconds": {"ticket": 0.0, "weights": 0.0},
        }

    def serve(self) -> str:
        """Lease and attack until told to stop; returns why it ended."""
        self.stopping.clear()
        beat = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        beat.start()
        try:
            while not self.stopping.is_set():
                began = time.monotonic()
                lease = self.transport.lease(self.name, LEASE_WAIT_S)
                self.counts["wait_seconds"]["ticket"] += time.monotonic() - began
                if isinstance(lease, Stop):
                    break
                if lease is not None:
                    self._attend(lease)
        finally:
            self.stopping.set()
            beat.join(timeout=5)
        return "stopped"

    def _attend(self, lease: Lease) -> None:
        """One ticket, from lease to commit; an attack that raises is reported and costs its ticket one attempt."""
        self.lost.clear()
        self.current = lease
        began = time.monotonic()
        try:
            self._attack(lease)
        except (SparringError, RuntimeError, ValueError) as error:
            log.exception("ticket %s failed", lease.ticket.key)
            self.transport.fail(lease, f"{type(error).__name__}: {str(error)[:500]}")
        finally:
            self.current = None
            self.counts["busy_seconds"] += time.monotonic() - began

    def _attack(self, lease: Lease) -> None:
        ticket = lease.ticket
        if ticket.fingerprint != self.dataset.fingerprint:
            raise SparringError(
                f"data.name = {self.config.data.name!r}: this host's training set (fingerprint "
                f"{self.dataset.fingerprint}) is not the trainer's ({ticket.fingerprint}). Give all hosts the same."
            )
        began = time.monotonic()
        ready = self.weights.begin(ticket.fence, ticket.version, self._abandoned)
        self.counts["wait_seconds"]["weights"] += time.monotonic() - began
        if not ready:
            self.counts["abandoned"] += 1
            self.transport.hand_back(lease)
            return
        production = Production(
            self.config,
            self.model,
            self.dataset,
            ticket.key,
            ticket.indices,
            self.weights.controls,
            self.weights.version,
            fence=ticket.fence,
            worker=self.name,
            start=given(ticket.starts, self.dataset.shape, self.weights.controls.epsilon),
        )
        while not production.done:
            if self.lost.is_set():
                self.counts["abandoned"] += 1
                return
            if self.stopping.is_set():
                self.transport.hand_back(lease)
                return
            if self.exchange:
                self.weights.swap()
            production.advance(self.weights.version)
        if self.transport.commit(lease, production.shard()):
            self.counts["shards"] += 1
            self.counts["gradients"] += production.gradients
            self.counts["attack_seconds"] = production.seconds
        else:
            self.counts["abandoned"] += 1

    def _abandoned(self) -> bool:
        """Nobody waits for what we work on."""
        return self.lost.is_set() or self.stopping.is_set()

    def _beat(self) -> None:
        """Beside the attack: renew the lease, tell how we are, notice a stop."""
        interval = min(1.0, self.config.queue.lease_s / 4)
        while not self.stopping.wait(interval):
            try:
                lease = self.current
                if lease is not None and not self.beating.renew(lease) and self.current is lease:
                    self.lost.set()
                self.beating.heartbeat(self.name, self._fields())
                if self.beating.stop_requested():
                    self.stopping.set()
            except SparringError as error:
                log.warning("heartbeat: %s", error)

    def _fields(self) -> dict[str, Any]:
        return {
            **self.counts,
            "version": self.weights.version,
            "swaps": self.weights.swaps,
            "pid": os.getpid(),
            "node": socket.gethostname(),
            "time": time.time(),
        }
