"""The points of studies are done: those that others need first, as many at once as there are processes, each once."""

from __future__ import annotations

import logging
import multiprocessing
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any, Protocol

from sparring.errors import SparringError, UsageError
from sparring.lab.records import Records
from sparring.lab.results import Record
from sparring.lab.study import Point
from sparring.lab.work import Figures, Place, measure
from sparring.machine.signals import end_with_parent

MOST_DEATHS = 3  # of processes, with one point
UNKNOWN_S = 60.0  # of a point of a kind that was never done
TELL_EVERY_S = 30.0

Progress = Callable[[str], None]


class Executor(Protocol):
    """Who does the points: processes of this machine, or a cluster."""

    def submit(self, point: Point, place: Place) -> Future[tuple[Figures, float, dict[str, Any]]]:
        """Begin one."""


@dataclass(frozen=True)
class Done:
    """How a study ended: number of points that were made now, were known, and failed with what."""

    made: int
    known: int
    failed: dict[str, str] = field(default_factory=dict)


def missing_points(points: Sequence[Point], known: Mapping[str, Record], place: Place) -> list[Point]:
    """The points to be done, those that others need first: unknown ones, and known ones whose run is gone and is
    needed."""
    wanted: dict[str, Point] = {}

    def want(point: Point, needed: bool) -> None:
        gone = needed and not place.run_of(point).finished
        if point.key in wanted or (point.key in known and not gone):
            return
        for each in point.needs:
            want(each, True)
        wanted[point.key] = point

    for point in points:
        want(point, False)
    return list(wanted.values())


@dataclass(frozen=True)
class StudyRun:
    """The points of a study, and where it records them."""

    name: str
    points: Sequence[Point]
    records: Records


def run(
    runs: Sequence[StudyRun],
    elsewhere: Mapping[str, Record],
    place: Place,
    executor: Executor,
    at_once: int,
    progress: Progress,
) -> dict[str, Done]:
    """Do what is missing of the studies' points, and record it in each study that has the point; by study how it ended.

    Args:
        elsewhere: records of other studies, by key, which are taken over.
        at_once: how many points may be in work.

    Raises:
        SparringError: the records cannot be written.
    """
    known = {**elsewhere}
    for each_run in runs:
        known |= each_run.records.read()
    before = {each_run.name: _taken_over(each_run, known) for each_run in runs}
    order = missing_points([point for each_run in runs for point in each_run.points], known, place)
    scheduler = _Scheduler(runs, known, place, executor)
    scheduler.through(order, at_once, progress)
    return {
        each_run.name: Done(
            len({point.key for point in each_run.points} - before[each_run.name] - scheduler.failed.keys()),
            len(before[each_run.name]),
            {point.key: scheduler.failed[point.key] for point in each_run.points if point.key in scheduler.failed},
        )
        for each_run in runs
    }


def _taken_over(each_run: StudyRun, known: Mapping[str, Record]) -> set[str]:
    """Record what other studies know of the study's points; the keys of all that are known."""
    own = each_run.records.read()
    for point in each_run.points:
        if point.key in known and point.key not in own:
            found = known[point.key]
            own[point.key] = each_run.records.add(point, found["figures"], found["seconds"], found["environment"])
    return own.keys() & {point.key for point in each_run.points}


class _Scheduler:
    """The points in work and those that wait."""

    def __init__(self, runs: Sequence[StudyRun], known: Mapping[str, Record], place: Place, executor: Executor) -> None:
        self.runs, self.place, self.executor = runs, place, executor
        self.failed: dict[str, str] = {}
        self._waiting: list[Point] = []
        self._open: set[str] = set()  # keys of points that wait or are in work
        self._deaths: dict[str, int] = {}
        self._working: dict[Future[tuple[Figures, float, dict[str, Any]]], Point] = {}
        self._seconds: dict[str, list[float]] = {}
        for record in known.values():
            self._seconds.setdefault(record["does"], []).append(record["seconds"])

    def through(self, order: Sequence[Point], at_once: int, progress: Progress) -> None:
        """Do all points; one whose needs failed fails, too."""
        self._waiting.extend(order)
        self._open |= {point.key for point in order}
        reported = 0.0
        while self._waiting or self._working:
            self._begin(at_once)
            if time.monotonic() - reported >= TELL_EVERY_S:
                reported = time.monotonic()
                progress(self._state(at_once))
            done, _ = wait(self._working, timeout=TELL_EVERY_S, return_when=FIRST_COMPLETED)
            for future in done:
                point = self._working.pop(future)
                self._open.discard(point.key)
                progress(self._finish(point, future))

    def _begin(self, at_once: int) -> None:
        """Begin points in their order until so many are in work; those that need an open one keep their place."""
        for point in list(self._waiting):
            if len(self._working) >= at_once:
                return
            lacking = [each for each in point.needs if each.key in self.failed]
            if not lacking and any(each.key in self._open for each in point.needs):
                continue
            self._waiting.remove(point)
            if lacking:
                self.failed[point.key] = f"it needs {lacking[0]}, which failed"
                self._open.discard(point.key)
            else:
                self._working[self.executor.submit(point, self.place)] = point

    def _finish(self, point: Point, future: Future[tuple[Figures, float, dict[str, Any]]]) -> str:
        of = [(each_run, each) for each_run in self.runs for each in each_run.points if each.key == point.key]
        name = of[0][0].name if of else "needed"
        try:
            figures, seconds, environment = future.result()
        except BrokenExecutor:
            return self._again(point, name)
        except Exception as error:  # whatever the libraries, or a node of a cluster, may raise
            reason = str(error) if isinstance(error, SparringError) else f"{type(error).__name__}: {error}"
            self.failed[point.key] = reason
            for each_run, each in of:
                each_run.records.log(f"{each.does} {each}: failed: {reason}")
            return f"{name}: {point.does} {point} failed: {reason}"
        self._seconds.setdefault(point.does, []).append(seconds)
        for each_run, each in of:
            each_run.records.add(each, figures, seconds, environment)
        return f"{name}: {point.does} {point}: {seconds:.0f} s"

    def _again(self, point: Point, name: str) -> str:
        """A process died, which may be this point's fault or that of another in work: it is done once more."""
        self._deaths[point.key] = self._deaths.get(point.key, 0) + 1
        if self._deaths[point.key] < MOST_DEATHS:
            self._waiting.append(point)
            self._open.add(point.key)
            return f"{name}: a process died; {point.does} {point} is done again"
        self.failed[point.key] = f"a process died {MOST_DEATHS} times with it; is the memory short?"
        return f"{name}: {point.does} {point} failed: {self.failed[point.key]}"

    def _state(self, at_once: int) -> str:
        """How many are left, and for about how long."""
        left = [*self._waiting, *self._working.values()]
        seconds = sum(self._expected(point) for point in left) / max(1, min(at_once, len(left)))
        in_work = "; ".join(map(str, self._working.values()))
        return f"{len(left)} points left, about {seconds / 60:.0f} min; in work: {in_work}"

    def _expected(self, point: Point) -> float:
        return mean(self._seconds.get(point.does, [UNKNOWN_S]))


class Processes:
    """So many processes of this machine, each with one thread of torch. Where one dies all are made anew."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._executor = self._made()

    def submit(self, point: Point, place: Place) -> Future[tuple[Figures, float, dict[str, Any]]]:
        try:
            return self._executor.submit(timed, point, place)
        except BrokenExecutor:
            self._executor = self._made()
            return self._executor.submit(timed, point, place)

    def kill(self) -> None:
        """Give up what is in work; it is done anew by the next lab."""
        for process in list(self._executor._processes.values()):
            process.kill()
        self._executor.shutdown(wait=True, cancel_futures=True)

    def close(self) -> None:
        """Wait for what is in work, and end the processes."""
        self._executor.shutdown()

    def _made(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self._count, mp_context=context, initializer=_quiet)


@contextmanager
def processes(count: int) -> Iterator[Processes]:
    """So many processes; at an error those points that are in work are given up."""
    made = Processes(count)
    try:
        yield made
    except BaseException:
        made.kill()
        raise
    made.close()


class Cluster:
    """A Ray cluster: each point takes one core, and a GPU or a part of one if it is asked for."""

    def __init__(self, num_gpus: float) -> None:
        import ray

        self._task = ray.remote(timed).options(num_cpus=1, num_gpus=num_gpus, max_retries=0)

    def submit(self, point: Point, place: Place) -> Future[tuple[Figures, float, dict[str, Any]]]:
        future: Future[tuple[Figures, float, dict[str, Any]]] = self._task.remote(point, place).future()
        return future


@contextmanager
def cluster(address: str, num_gpus: float = 0.0) -> Iterator[tuple[Cluster, int]]:
    """The cluster at an address, and how many points it can do at once."""
    import ray

    from sparring.engines.ray.local import loopback_alone, put_back_afterwards

    with put_back_afterwards(address), ExitStack() as after:
        try:
            with loopback_alone() if address == "local" else nullcontext():
                ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UsageError(
                f"--address {address}: no Ray cluster answers there ({error}). Start one by `ray start`."
            ) from error
        after.callback(ray.shutdown)
        resources = ray.cluster_resources()
        cores, gpus = resources.get("CPU", 1), resources.get("GPU", 0)
        yield Cluster(num_gpus), max(1, int(min(cores, gpus / num_gpus) if num_gpus else cores))


def timed(point: Point, place: Place) -> tuple[Figures, float, dict[str, Any]]:
    """Figures of a point, seconds that it took, and where."""
    began = time.monotonic()
    figures = measure(point, place)
    return figures, time.monotonic() - began, environment_here()


def environment_here() -> dict[str, Any]:
    """What a record says of the machine and the versions."""
    from sparring.runs import environment

    found = environment()
    packages = {name: found["packages"][name] for name in ("sparring", "torch")}
    return {
        "commit": commit(),
        "python": found["python"],
        **packages,
        **{name: found[name] for name in ("cores", "processor")},
    }


def commit() -> str | None:
    """The commit of the checkout that this package is run from, with + where files have changed; None: no checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


def _quiet() -> None:
    """For a process that does points: one thread, and no words but those of the study."""
    end_with_parent()
    import torch

    torch.set_num_threads(1)
    logging.getLogger().setLevel(logging.ERROR)


def known_in(root: Path) -> dict[str, Record]:
    """All records below a folder of results, by key."""
    found: dict[str, Record] = {}
    for path in sorted(root.glob("*/*/points.jsonl")):
        found |= Records(path.parent).read()
    return found
