"""A few schedules of `make chaos`: between them every fault happens. What is broken on purpose is found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sparring.queue import ledger
from sparring.runs import Run
from tests.chaos.faults import FAULTS
from tests.chaos.schedules import faults_of, run_schedule

SEEDS = (12, 137, 249, 305)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_keeps_its_promises_whatever_happens_to_it(seed: int, tmp_path: Path) -> None:
    outcome = run_schedule(seed, tmp_path)
    assert outcome.violations == [] and outcome.phase == "finished"


def test_every_fault_happens() -> None:
    assert {name for seed in SEEDS for names in faults_of(seed).values() for name in names} == set(FAULTS)


def test_a_fence_that_only_the_server_knows_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "next_fence", lambda run, above=0: above + 1)
    assert any("fence" in each for each in run_schedule(9, tmp_path).violations)


def test_a_resume_that_forgets_what_is_done_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(epoch: int, *others: Any) -> tuple[int, dict[int, set[int]]]:
        return epoch, {}

    monkeypatch.setattr(ledger, "reopened", forgetful)
    assert any("was trained on 2 times" in each for each in run_schedule(9, tmp_path).violations)
