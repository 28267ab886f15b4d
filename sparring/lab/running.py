"""The points of studies are done: those that others need first, as many at once as there are processes, each once."""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any, Protocol

from sparring.errors import SparringError
from sparring.lab.records import Records
from sparring.lab.results import Record
from sparring.lab.study import Point
from sparring.lab.work import Figures, Place, measure
from sparring.machine.signals import end_with_parent

UNKNOWN_S = 60.0  # of a point of a kind that was never done
TELL_EVERY_S = 30.0

Progress = Callable[[str], None]


class Hands(Protocol):
    """Who does the points."""

    def submit(self, point: Point, place: Place) -> Future[tuple[Figures, float, dict[str, Any]]]:
        """Begin one."""


@dataclass(frozen=True)
class Done:
    """How a study ended: number of points that were made now, were known, and failed with what."""

    made: int
    known: int
    failed: dict[str, str] = field(default_factory=dict)


def everything(points: Sequence[Point], known: Mapping[str, Record], place: Place) -> list[Point]:
    """The points to be done, those that others need first: unknown ones, and known ones whose run is gone and is
    needed."""
    wanted: dict[str, Point] = {}

    def want(point: Point, needed: bool) -> None:
        gone = needed and not place.run_of(point).checkpoints.is_dir()
        if point.key in wanted or (point.key in known and not gone):
            return
        for each in point.needs:
            want(each, True)
        wanted[point.key] = point

    for point in points:
        want(point, False)
    return list(wanted.values())


@dataclass(frozen=True)
class Sheet:
    """The points of a study, and where it records them."""

    name: str
    points: Sequence[Point]
    records: Records


def run(
    sheets: Sequence[Sheet],
    elsewhere: Mapping[str, Record],
    place: Place,
    hands: Hands,
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
    for sheet in sheets:
        known |= sheet.records.read()
    before = {sheet.name: _taken_over(sheet, known) for sheet in sheets}
    order = everything([point for sheet in sheets for point in sheet.points], known, place)
    course = _Course(sheets, known, place, hands)
    course.through(order, at_once, progress)
    return {
        sheet.name: Done(
            len({point.key for point in sheet.points} - before[sheet.name] - course.failed.keys()),
            len(before[sheet.name]),
            {point.key: course.failed[point.key] for point in sheet.points if point.key in course.failed},
        )
        for sheet in sheets
    }


def _taken_over(sheet: Sheet, known: Mapping[str, Record]) -> set[str]:
    """Record what other studies know of the study's points; the keys of all that are known."""
    own = sheet.records.read()
    for point in sheet.points:
        if point.key in known and point.key not in own:
            found = known[point.key]
            own[point.key] = sheet.records.add(point, found["figures"], found["seconds"], found["environment"])
    return own.keys() & {point.key for point in sheet.points}


class _Course:
    """The points in work and those that wait."""

    def __init__(self, sheets: Sequence[Sheet], known: Mapping[str, Record], place: Place, hands: Hands) -> None:
        self.sheets, self.place, self.hands = sheets, place, hands
        self.failed: dict[str, str] = {}
        self._working: dict[Future[tuple[Figures, float, dict[str, Any]]], Point] = {}
        self._seconds: dict[str, list[float]] = {}
        for record in known.values():
            self._seconds.setdefault(record["does"], []).append(record["seconds"])

    def through(self, order: Sequence[Point], at_once: int, progress: Progress) -> None:
        """Do all points; one whose needs failed fails, too."""
        waiting, told = deque(order), 0.0
        open_keys = {point.key for point in order}
        while waiting or self._working:
            self._begin(waiting, open_keys, at_once)
            if time.monotonic() - told >= TELL_EVERY_S:
                told = time.monotonic()
                progress(self._state(waiting, at_once))
            done, _ = wait(self._working, timeout=TELL_EVERY_S, return_when=FIRST_COMPLETED)
            for future in done:
                point = self._working.pop(future)
                open_keys.discard(point.key)
                progress(self._finish(point, future))

    def _begin(self, waiting: deque[Point], open_keys: set[str], at_once: int) -> None:
        """Begin points until so many are in work; those that need an open one stay."""
        for _ in range(len(waiting)):
            if len(self._working) >= at_once:
                return
            point = waiting.popleft()
            lacking = [each for each in point.needs if each.key in self.failed]
            if lacking:
                self.failed[point.key] = f"it needs {lacking[0]}, which failed"
                open_keys.discard(point.key)
            elif any(each.key in open_keys for each in point.needs):
                waiting.append(point)
            else:
                self._working[self.hands.submit(point, self.place)] = point

    def _finish(self, point: Point, future: Future[tuple[Figures, float, dict[str, Any]]]) -> str:
        of = [(sheet, each) for sheet in self.sheets for each in sheet.points if each.key == point.key]
        name = of[0][0].name if of else "needed"
        try:
            figures, seconds, environment = future.result()
        except SparringError as error:
            self.failed[point.key] = str(error)
            for sheet, each in of:
                sheet.records.log(f"{each.does} {each}: failed: {error}")
            return f"{name}: {point.does} {point} failed: {error}"
        self._seconds.setdefault(point.does, []).append(seconds)
        for sheet, each in of:
            sheet.records.add(each, figures, seconds, environment)
        return f"{name}: {point.does} {point}: {seconds:.0f} s"

    def _state(self, waiting: Sequence[Point], at_once: int) -> str:
        """How many are left, and for about how long."""
        left = [*waiting, *self._working.values()]
        seconds = sum(self._expected(point) for point in left) / max(1, min(at_once, len(left)))
        in_work = "; ".join(map(str, self._working.values()))
        return f"{len(left)} points left, about {seconds / 60:.0f} min; in work: {in_work}"

    def _expected(self, point: Point) -> float:
        return mean(self._seconds.get(point.does, [UNKNOWN_S]))


class Processes:
    """Processes of this machine, each with one thread of torch."""

    def __init__(self, executor: ProcessPoolExecutor) -> None:
        self._executor = executor

    def submit(self, point: Point, place: Place) -> Future[tuple[Figures, float, dict[str, Any]]]:
        return self._executor.submit(timed, point, place)


@contextmanager
def processes(count: int) -> Iterator[Processes]:
    """So many processes; at an error those points that are in work are given up."""
    executor = ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"), initializer=_quiet)
    try:
        yield Processes(executor)
    except BaseException:
        for process in list(executor._processes.values()):
            process.kill()  # a point in work is done anew
        executor.shutdown(wait=True, cancel_futures=True)
        raise
    executor.shutdown()


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

    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        resources = ray.cluster_resources()
        cores, gpus = resources.get("CPU", 1), resources.get("GPU", 0)
        yield Cluster(num_gpus), max(1, int(min(cores, gpus / num_gpus) if num_gpus else cores))
    finally:
        ray.shutdown()


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
    return {"python": found["python"], **packages, **{name: found[name] for name in ("cores", "processor")}}


def _quiet() -> None:
    """For a process that does points: one thread, and no words but those of the study."""
    end_with_parent()
    os.environ["OMP_NUM_THREADS"] = "1"
    logging.getLogger().setLevel(logging.ERROR)


def known_in(root: Path) -> dict[str, Record]:
    """All records below a folder of results, by key."""
    found: dict[str, Record] = {}
    for path in sorted(root.glob("*/*/points.jsonl")):
        found |= Records(path.parent).read()
    return found
