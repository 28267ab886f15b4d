"""Each point is done once, those that others need first; what fails is said and does not stop the others."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sparring.errors import SparringError
from sparring.lab.records import Records
from sparring.lab.results import Record
from sparring.lab.running import Done, StudyRun, missing_points, processes, run
from sparring.lab.study import Point
from sparring.lab.work import Place
from tests.support.studies import digits_points
from tests.support.waiting import wait_for

BASE = Point("train", {"n": 0}, {"n": 0})
POINTS = [BASE, Point("train", {"n": 1}, {"n": 1}), Point("evaluate", {"n": 0}, needs=(BASE,))]


class Now:
    """Does a point when it is asked for; `order` has the points in the order of their beginning."""

    def __init__(self, does: Callable[[Point], dict[str, Any]] = lambda point: {"n": 1}) -> None:
        self.order: list[Point] = []
        self.does = does

    def submit(self, point: Point, place: Place) -> Future[tuple[dict[str, Any], float, dict[str, Any]]]:
        self.order.append(point)
        future: Future[tuple[dict[str, Any], float, dict[str, Any]]] = Future()
        try:
            future.set_result((self.does(point), 1.5, {"cores": 1}))
        except Exception as error:
            future.set_exception(error)
        return future


def go(tmp_path: Path, executor: Now, points: list[Point] = POINTS, elsewhere: dict[str, Any] | None = None) -> Done:
    place = Place(None, tmp_path / "runs")
    study = StudyRun("s", points, Records(tmp_path / "study"))
    return run([study], elsewhere or {}, place, executor, 2, lambda line: None)["s"]


def test_each_point_is_done_once(tmp_path: Path) -> None:
    executor = Now()
    assert go(tmp_path, executor) == Done(3, 0)
    assert len(executor.order) == 3 and executor.order.index(POINTS[2]) > executor.order.index(BASE)
    again = Now()
    assert go(tmp_path, again) == Done(0, 3) and again.order == []
    more = [*POINTS, Point("train", {"n": 2}, {"n": 2})]
    assert go(tmp_path, again, more) == Done(1, 3) and again.order == [more[3]]


def test_a_run_that_is_gone_is_made_again_only_if_it_is_needed(tmp_path: Path) -> None:
    go(tmp_path, Now(), [BASE])
    executor = Now()
    assert go(tmp_path, executor) == Done(2, 1)
    assert {each.key for each in executor.order} == {each.key for each in POINTS}
    place = Place(None, tmp_path / "runs")
    place.run_of(BASE).checkpoints.mkdir(parents=True)
    place.run_of(BASE).write_json("state.json", {"phase": "finished"})
    known: dict[str, Record] = {BASE.key: {}}
    assert [each.key for each in missing_points(POINTS, known, place)] == [POINTS[1].key, POINTS[2].key]


def test_a_point_of_another_study_is_taken_over(tmp_path: Path) -> None:
    go(tmp_path, Now(), [BASE])
    elsewhere = {BASE.key: Records(tmp_path / "study").read()[BASE.key]}
    executor = Now()
    same = replace(BASE, at={"other": 1})
    study = StudyRun("two", [same], Records(tmp_path / "two"))
    assert run([study], elsewhere, Place(None, tmp_path), executor, 2, lambda line: None) == {"two": Done(0, 1)}
    assert executor.order == []
    assert [each["at"] for each in Records(tmp_path / "two").results([same])] == [{"other": 1}]


def test_a_point_of_two_studies_is_done_once_and_recorded_in_both(tmp_path: Path) -> None:
    executor, same = Now(), replace(BASE, at={"other": 1})
    both = [StudyRun("a", POINTS, Records(tmp_path / "a")), StudyRun("b", [same], Records(tmp_path / "b"))]
    assert run(both, {}, Place(None, tmp_path), executor, 2, lambda line: None) == {
        "a": Done(3, 0),
        "b": Done(1, 0),
    }
    assert len(executor.order) == 3 and [each["at"] for each in both[1].records.results([same])] == [{"other": 1}]


def test_a_point_that_fails_is_said_with_those_that_need_it(tmp_path: Path) -> None:
    def failing(point: Point) -> dict[str, Any]:
        if point.key == BASE.key:
            raise SparringError("no data")
        return {}

    done = go(tmp_path, Now(failing))
    assert done.made == 1 and done.failed[BASE.key] == "no data" and "needs n=0" in done.failed[POINTS[2].key]
    assert Records(tmp_path / "study").read().keys() == {POINTS[1].key}
    assert "failed: no data" in (tmp_path / "study" / "log.txt").read_text()


def test_processes_train_and_attack(tmp_path: Path) -> None:
    points, told = digits_points("quick", [0]), list[str]()
    with processes(2) as executor:
        study = StudyRun("digits", points, Records(tmp_path))
        done = run([study], {}, Place(None, tmp_path / "runs"), executor, 2, told.append)
    assert done == {"digits": Done(3, 0)} and "3 points left" in told[0]
    found = Records(tmp_path).results(points)
    assert [each["figures"]["samples"] for each in found] == [60, 60, 60]
    assert found.records[2]["figures"]["epsilon"] == 0.05 and found.records[0]["environment"]["torch"]
    weaker = found.records[2]["figures"]["robust_accuracy"] - found.records[0]["figures"]["robust_accuracy"]
    assert weaker >= 0, "the smaller radius breaks no more"


def test_an_error_gives_up_what_is_in_work(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), processes(1) as executor:
        future = executor.submit(digits_points("quick", [0])[0], Place(None, tmp_path))
        raise KeyboardInterrupt
    assert future.done() or future.cancelled()


def test_what_a_library_raises_stops_no_other_point(tmp_path: Path) -> None:
    def failing(point: Point) -> dict[str, Any]:
        if point.key == POINTS[1].key:
            raise RuntimeError("CUDA error")
        return {}

    executor = Now(failing)
    done = go(tmp_path, executor)
    assert done.made == 2 and done.failed == {POINTS[1].key: "RuntimeError: CUDA error"}


def test_a_point_whose_process_dies_is_done_again_but_not_for_ever(tmp_path: Path) -> None:
    deaths = {POINTS[0].key: 1, POINTS[1].key: 99}

    def dying(point: Point) -> dict[str, Any]:
        deaths[point.key] = deaths.get(point.key, 0) - 1
        if deaths[point.key] >= 0:
            raise BrokenExecutor
        return {}

    done = go(tmp_path, Now(dying))
    assert done.made == 2 and "a process died 3 times" in done.failed[POINTS[1].key]


def test_processes_are_made_anew_when_one_has_died(tmp_path: Path) -> None:
    place, point = Place(None, tmp_path), digits_points("quick", [0])[0]
    with processes(1) as executor:
        future = executor.submit(point, place)
        wait_for("a process", lambda: executor._executor._processes)
        for process in executor._executor._processes.values():
            process.kill()
        with pytest.raises(BrokenExecutor):
            future.result(timeout=60)
        figures, _seconds, environment = executor.submit(point, place).result(timeout=120)
    assert figures["steps"] == 6 and environment["commit"]


def test_a_run_that_did_not_end_is_made_again(tmp_path: Path) -> None:
    place = Place(None, tmp_path / "runs")
    run_of = place.run_of(BASE)
    run_of.checkpoints.mkdir(parents=True)
    for phase, gone in (("interrupted", True), ("finished", False)):
        run_of.write_json("state.json", {"phase": phase})
        assert (BASE.key in {each.key for each in missing_points(POINTS, {BASE.key: {}}, place)}) == gone
