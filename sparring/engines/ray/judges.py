"""Workers that judge: Ray actors, each with the networks on a device of its own, do the tickets of an evaluation.

A worker that dies is started again by Ray, and its ticket is given to another. Whoever is killed takes along only what
it was at.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import ray
import torch
from torch import Tensor, nn

from sparring.config import Config, from_tree
from sparring.config.derived import worker_threads
from sparring.data import Dataset
from sparring.engines.ray.actor_inputs import ActorInputs, actor_inputs
from sparring.engines.ray.actors import reserved, tree_of
from sparring.engines.ray.cluster import ray_cluster
from sparring.engines.ray.hanging import Stopped, end_process
from sparring.engines.ray.health import Health
from sparring.engines.ray.nodes import ask_for_nodes, let_nodes_go
from sparring.errors import SparringError, last_line
from sparring.evaluation.tickets import Events, InProcess, Ticket, Work, examples_at
from sparring.machine.devices import device_for
from sparring.machine.memory import keep_freed_memory
from sparring.machine.watchdog import Watchdog
from sparring.models import Shape, build
from sparring.trainer.experiment import NOTHING_PASSED

log = logging.getLogger(__name__)
POLL_S = 0.5
STDERR = Path("/dev/stderr")  # a file of Ray's, where it keeps what a worker prints
MOST_DEATHS = 3  # of workers at one ticket: then the ticket is what kills them


class Weights(NamedTuple):
    """A run's network, to be built again on another host: its settings (a tree), shape and number of classes, and its
    weights, on the CPU."""

    settings: dict[str, Any]
    shape: Shape
    classes: int
    tensors: dict[str, Tensor]

    def network(self) -> nn.Module:
        config = from_tree(self.settings)
        made = build(config.model, self.shape, self.classes, config.train.seed, normalize=config.data.normalize)
        made.load_state_dict(self.tensors)
        return made


class WithoutNetworks(Exception):
    """The worker's process has died while it had nothing to do, and was started again: it has no networks yet."""


class Done(NamedTuple):
    """The result of a ticket."""

    result: Any


class Died(NamedTuple):
    """A worker has; at_work: while it was at a ticket."""

    at_work: bool


class Judge:
    """Does the work of tickets, once it has the networks."""

    own: InProcess | None = None

    def __init__(self, settings: dict[str, Any], inputs: ActorInputs) -> None:
        inputs.unpack()
        keep_freed_memory()
        config = from_tree(settings)
        torch.set_num_threads(worker_threads(config.workers, 0))
        self.device = device_for("auto", config.workers.num_gpus)
        self.hang_timeout_s = config.workers.hang_timeout_s

    def take(self, networks: list[Weights]) -> tuple[str, int]:
        """Build the networks; returns host and process. Not in the constructor: Ray cannot repeat that once large
        arguments are gone."""
        made = [each.network().to(self.device).eval() for each in networks]
        for network in made:
            network.register_forward_pre_hook(lambda *_: self.watchdog.tick())
        self.own = InProcess(made)
        return socket.gethostname(), os.getpid()

    def work(self, work: Work, x: Tensor, y: Tensor) -> Any:
        """The result of a ticket's work on these images and labels.

        A process that makes no pass through a network for workers.hang_timeout_s, as on a GPU that hangs, ends itself.

        Raises:
            WithoutNetworks: it needs them first.
        """
        if self.own is None:
            raise WithoutNetworks
        self.watchdog = Watchdog(self.hang_timeout_s, STDERR)
        try:
            return self.own.done(work, x, y)
        finally:
            self.watchdog.stop()


class RayJudges:
    """Gives tickets to `workers.count` judges. Use as a context: at its end they are gone."""

    def __init__(self, config: Config, networks: list[Weights], sources: dict[str, str]) -> None:
        self.config, self.count = config, config.workers.count
        self.health, self.deaths = Health(), 0
        options, settings = reserved(config.workers), tree_of(config)
        cores = 0 if config.ray.address == "local" else config.workers.num_cpus
        made = ray.remote(Judge).options(num_cpus=cores, max_restarts=-1, **options)
        self._networks, inputs = ray.put(networks), actor_inputs(sources, NOTHING_PASSED)
        self.actors = [made.remote(settings, inputs) for _ in range(self.count)]
        self._starting: dict[Any, int] = {}  # a call -> the worker's number
        self._working: set[int] = set()  # numbers of the workers that have started
        self._here: dict[int, int] = {}  # process ids of those on this host
        self._stopped = Stopped(config.workers.hang_timeout_s)
        for number in range(self.count):
            self._start(number)
        self._quiet_since = time.monotonic()  # no worker has worked since

    def results(self, examples: Dataset, tickets: Iterable[Ticket], events: Events) -> Iterator[tuple[Ticket, Any]]:
        """Of `Judges`.

        Raises:
            SparringError: the work failed, workers die of one ticket or do not start, or Ray no longer works.
        """
        waiting, busy = deque(tickets), dict[Any, tuple[int, Ticket]]()
        deaths = Counter[tuple[int, ...]]()
        while waiting or busy:
            while waiting and (number := self._next(len(waiting), busy.values())) is not None:
                ticket = waiting.popleft()
                task = self.actors[number].work.remote(ticket.work, *examples_at(examples, ticket.places))
                busy[task] = number, ticket
            for task in ray.wait([*busy, *self._starting], timeout=POLL_S)[0]:
                if task in self._starting:
                    self._has_started(task)
                    continue
                first = next(ticket for number, ticket in busy.values() if number == busy[task][0])  # is at work
                number, ticket = busy.pop(task)
                done = self._result(task, number)
                if isinstance(done, Done):
                    yield ticket, done.result
                    continue
                waiting.append(ticket)
                if ticket is first and done.at_work:
                    deaths[ticket.places] += 1
                    _require_harmless(ticket, deaths[ticket.places])
            events.working(len(self._working), self.deaths)
            self._end_stopped()
            self._require_workers(bool(self._working))

    def _next(self, waiting: int, busy: Iterable[tuple[int, Ticket]]) -> int | None:
        """Who gets the next ticket: whoever has none. While many wait, each has one more, to begin without a pause."""
        most, load = 2 if waiting > self.count else 1, Counter(number for number, _ in busy)
        return min((number for number in self._working if load[number] < most), key=load.__getitem__, default=None)

    def close(self) -> None:
        """End the workers."""
        for actor in self.actors:
            ray.kill(actor, no_restart=True)

    def _start(self, number: int) -> None:
        self._starting[self.actors[number].take.remote(self._networks)] = number

    def _has_started(self, task: Any) -> None:
        number = self._starting.pop(task)
        try:
            host, pid = ray.get(task)
        except ray.exceptions.ActorUnavailableError:  # Ray is starting its process again
            time.sleep(POLL_S)
            self._start(number)
            return
        except (ray.exceptions.RayTaskError, ray.exceptions.ActorDiedError) as error:
            self._require_ray(at_once=True)
            raise SparringError(f"a worker did not start: {getattr(error, 'cause', error)!r}") from error
        except ray.exceptions.RayError as error:
            self.deaths += 1
            log.warning("a worker died while it started: %s", last_line(error))
            self._start(number)
            return
        self._working.add(number)
        if host == socket.gethostname():
            self._here[number] = pid

    def _end_stopped(self) -> None:
        """End workers on this host that have been stopped for workers.hang_timeout_s; Ray starts them again."""
        limit_s = self._stopped.limit_s
        for number in self._stopped.of({number: self._here[number] for number in self._working & self._here.keys()}):
            log.error("a worker has been stopped for workers.hang_timeout_s = %g s; it is ended", limit_s)
            end_process(self._here[number], "Judge")

    def _result(self, task: Any, number: int) -> Done | Died:
        """The result; or the worker has died, and is started again."""
        try:
            return Done(ray.get(task))
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, WithoutNetworks):
                self._has_died(number, "it had nothing to do")
                return Died(at_work=False)
            raise (
                cause if isinstance(cause, SparringError) else SparringError(f"the evaluation failed: {cause!r}")
            ) from error
        except ray.exceptions.RayError as error:
            self._has_died(number, last_line(error))
            return Died(at_work=True)

    def _has_died(self, number: int, reason: str) -> None:
        if number in self._working:  # else it is known already, by its other ticket
            self._working.remove(number)
            self.deaths += 1
            log.warning("a worker died, its tickets are given to others: %s", reason)
            self._start(number)

    def _require_ray(self, at_once: bool = False) -> None:
        if problem := self.health.check(at_once):
            raise SparringError(
                f"{problem}. The same command goes on with the verdicts that it has kept, if it keeps any."
            )

    def _require_workers(self, working: bool) -> None:
        self._require_ray()
        now, limit = time.monotonic(), self.config.workers.start_timeout_s
        if working:
            self._quiet_since = now
        elif now - self._quiet_since > limit:
            raise SparringError(
                f"none of workers.count = {self.count} workers has started within workers.start_timeout_s = {limit:g} s"
                f": there is no room in Ray for {self.config.workers.num_cpus:g} cores and "
                f"{self.config.workers.num_gpus:g} GPUs each, or they die. Lower these, or raise the time-out."
            )


def _require_harmless(ticket: Ticket, deaths: int) -> None:
    if deaths >= MOST_DEATHS:
        raise SparringError(
            f"{deaths} workers died while they attacked the same {len(ticket.places)} examples. Is there too little "
            f"memory? Lower evaluation.batch_size."
        )


@contextmanager
def ray_judges(config: Config, networks: list[Weights], sources: dict[str, str]) -> Iterator[RayJudges]:
    """Workers of a local Ray, or of the cluster that `ray.address` names."""
    with ray_cluster(config.ray, config.workers.count):
        ask_for_nodes(config)
        judges = RayJudges(config, networks, sources)
        try:
            yield judges
        finally:
            judges.close()
            let_nodes_go(config.ray)
