"""The audit finds what it is there to find."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.audit import violations

TICKETS = ((10, 10, 5), (10, 10, 5))
Lines = list[dict[str, Any]]


def steps() -> Lines:
    keys = [(epoch, number) for epoch in range(2) for number in range(3)]
    return [
        {"step": step, "fence": 1, "epoch": epoch, "tickets": [number], "versions": [max(0, step - 2)]}
        for step, (epoch, number) in enumerate(keys, start=1)
    ]


def metrics() -> Lines:
    return [{"step": step, "examples": count} for step, count in ((3, 25), (6, 50))]


def found(folder: Path, lines: Lines, counted: Lines) -> list[str]:
    for name, content in (("steps.jsonl", lines), ("metrics.jsonl", counted)):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in content))
    return violations(folder, TICKETS, bound=2, finished=True)


def test_a_run_that_kept_its_promises_passes(tmp_path: Path) -> None:
    assert found(tmp_path, steps(), metrics()) == []
    again = [line | {"fence": 2} for line in steps()[3:]]
    assert found(tmp_path, [*steps()[:5], *again], metrics()) == [], "after a resume from step 3"


def resumed(lines: Lines) -> Lines:
    return [*lines[:5], *(line | {"fence": 2} for line in lines[3:])]


@pytest.mark.parametrize(
    ("break_it", "expected"),
    [
        (lambda lines: lines[:-1], "never trained on"),
        (lambda lines: [*lines[:2], *lines[3:]], "never trained on"),
        (lambda lines: [*lines[:5], lines[5] | {"tickets": [1]}], "was trained on 2 times"),
        (lambda lines: [*lines[:5], lines[5] | {"versions": [71]}], "staleness -66"),
        (lambda lines: [*lines[:5], lines[5] | {"versions": [2]}], "staleness 3, bound 2"),
        (lambda lines: [line | {"fence": 1} for line in resumed(lines)], "under the same fence"),
        (lambda lines: [line | {"fence": 3 - line["fence"]} for line in resumed(lines)], "fence 1 after 2"),
    ],
)
def test_a_promise_that_is_broken_is_found(tmp_path: Path, break_it: Callable[[Lines], Lines], expected: str) -> None:
    assert any(expected in each for each in found(tmp_path, break_it(steps()), []))


def test_a_counter_that_begins_anew_after_a_resume_is_found(tmp_path: Path) -> None:
    counted = [{"step": 3, "examples": 25}, {"step": 6, "examples": 25}]
    assert found(tmp_path, steps(), counted) == ["metrics at step 6: 25 examples, the steps have 50"]
