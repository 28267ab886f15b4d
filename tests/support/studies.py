"""A small study of the digits, for tests of the lab."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sparring.commands.combinations import check_combinations
from sparring.config import load
from sparring.lab import figures
from sparring.lab.results import Record, Results
from sparring.lab.study import Claim, Column, Point, Size, Study, Table
from sparring.lab.tables import verdicts
from sparring.lab.work import WORK

DIGITS: dict[str, Any] = {
    "engine": "sync",
    "data.name": "digits",
    "attack.steps": 2,
    "train.max_steps": 6,
    "trainer.threads": 1,
    "evaluation.steps": 2,
    "evaluation.restarts": 1,
    "evaluation.samples": 60,
}


def digits_points(size: Size, seeds: Sequence[int]) -> list[Point]:
    """Networks of two rates, and one of them attacked at another radius."""
    networks = [
        Point("train", {"rate": rate, "seed": seed}, {**DIGITS, "optimizer.lr": rate, "train.seed": seed})
        for seed in seeds
        for rate in (0.001, 0.01)
    ]
    attack = {"attack.epsilon": 0.05}
    return [*networks, Point("evaluate", {"rate": 0.001, "seed": seeds[0]}, attack, needs=(networks[0],))]


def _better(results: Results) -> tuple[str, bool]:
    high, low = (results.mean("clean_accuracy", "train", rate=rate) for rate in (0.01, 0.001))
    return f"{100 * high:.0f} against {100 * low:.0f}", high > low


def _chart(results: Results) -> dict[str, Any]:
    rows = [{"rate": rate, "clean": 100 * results.mean("clean_accuracy", "train", rate=rate)} for rate in (0.001, 0.01)]
    return figures.lines(
        [{**row, "of": "digits"} for row in rows], "rate", "clean", "of", title="Digits", x_title="rate"
    )


STUDY = Study(
    "digits",
    "Nobody",
    "Table 9",
    "Does the rate matter?",
    {"quick": "Digits, six steps.", "full": "Digits, six steps, too."},
    digits_points,
    tables=(
        Table(
            ("rate",),
            (Column("clean_accuracy", "clean"), Column("steps", "steps", share=False, digits=0)),
            paper={(0.01,): {"clean_accuracy": 99.0}},
        ),
    ),
    claims=(Claim("a higher rate is better", "by far", _better),),
    charts={"rates": _chart},
)


def record(does: str, at: Mapping[str, Any], **found: Any) -> Record:
    """The record of a finished point."""
    return {"key": f"{does}{sorted(at.items())}", "does": does, "at": dict(at), "figures": found, "seconds": 2.0}


def studies_in(module: object) -> dict[str, Study]:
    """The studies that a module declares, by name."""
    return {value.name: value for value in vars(module).values() if isinstance(value, Study)}


def require_sound(study: Study, size: Size) -> None:
    """Settings that check out, different keys, needs that are points, and nothing claimed before anything was run."""
    points = study.points(size, [0, 1])
    assert len({each.key for each in points}) == len(points) > 1
    for point in points:
        assert point.does in WORK
        if point.does in ("train", "clock"):
            config = load(None, point.settings)
            if point.does == "train":
                check_combinations(config)
        for needed in point.needs:
            assert needed.key in {each.key for each in points}
    assert {each.word for each in verdicts(study, Results([]))} <= {"not run"} and study.setting[size]
    assert all(column.name and column.title for table in study.tables for column in table.columns)
