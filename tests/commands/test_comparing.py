"""Runs are compared on the same examples under the same attack, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparring.commands.comparing import compare_runs
from sparring.commands.evaluate import evaluate_run
from sparring.commands.train import train
from sparring.errors import UsageError
from sparring.runs import Run
from tests.support.runs import small

CHEAP = {"evaluation.samples": "80", "evaluation.steps": "3"}
pytestmark = pytest.mark.xdist_group("comparing")  # one process trains the networks


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Of one step and of many."""
    made = []
    for steps in (1, 40):
        root = tmp_path_factory.mktemp("compared")
        config = small(root, engine="sync", run={"name": f"of-{steps}"}, train={"epochs": 2, "max_steps": steps})
        made.append(train(config, progress=False).run)
    return made


def test_the_better_one_is_found_by_the_verdicts_of_both(runs: list[Run]) -> None:
    found = compare_runs(runs, CHEAP)
    few, many = (evaluate_run(run, CHEAP) for run in runs)
    assert few["known"] > 0, "the comparison has left its verdicts"
    (pair,) = found["pairs"]
    assert (pair["first"], pair["second"]) == ("of-1", "of-40")
    assert pair["difference"] == pytest.approx(few["robust_accuracy"] - many["robust_accuracy"])
    assert pair["only_second"] > pair["only_first"] and pair["p_value"] < 0.01 and pair["interval"][1] < 0
    assert [each["robust_accuracy"] for each in found["runs"]] == [few["robust_accuracy"], many["robust_accuracy"]]


def test_what_cannot_be_compared_is_refused(runs: list[Run], tmp_path: Path) -> None:
    other = train(
        small(tmp_path, engine="sync", train={"epochs": 1, "max_steps": 1}, attack={"epsilon": 0.1}), progress=False
    ).run
    with pytest.raises(UsageError, match=r"attack\.epsilon = 0\.2 in of-1 and 0\.1 in .* Give --attack\.epsilon"):
        compare_runs([runs[0], other], CHEAP)
    assert compare_runs([runs[0], other], {**CHEAP, "attack.epsilon": "0.05"})["attack"].endswith("linf 0.05")
    with pytest.raises(UsageError, match="compare needs two runs"):
        compare_runs(runs[:1], CHEAP)
