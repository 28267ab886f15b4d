"""Every point of this study can be run; its claims and its chart of times are computed from known figures."""

from __future__ import annotations

import pytest

from sparring.lab.results import Record, Results
from sparring.lab.studies import phases
from sparring.lab.study import SIZES, Size
from tests.support.studies import record, require_sound, studies_in

STUDIES = studies_in(phases)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", STUDIES)
def test_every_point_can_be_run(name: str, size: Size) -> None:
    require_sound(STUDIES[name], size)


def trained(method: str, radius: str, seconds: float, robust: float) -> Record:
    """A run of 150 steps in 15 epochs; an epoch takes 1, 2 and 4 s in the three phases."""
    series = {"step": [30, 60, 90, 120, 150], "seconds": [3.0, 6.0, 12.0, 18.0, 30.0]}
    where = {"method": method, "epsilon": radius, "seed": 0}
    found = {"robust_accuracy": robust, "training_processor_seconds": seconds, "steps": 150, "series": series}
    return record("train", where, **found)


def judged(method: str, radius: str, robust: float) -> Record:
    return record("evaluate", {"method": method, "epsilon": radius, "seed": 0}, robust_accuracy=robust)


def test_the_seconds_of_an_epoch_in_each_phase() -> None:
    one = trained(phases.FGSM, "2/255", 30, 0.4)
    assert phases.seconds_of_an_epoch(one) == pytest.approx([1, 2, 4])


def test_the_claims_of_known_figures() -> None:
    runs = [
        *(trained(phases.FGSM, radius, 30, 0.41) for radius in phases.RADII),
        *(trained(phases.FREE, radius, 100, 0.40) for radius in phases.RADII),
        judged(phases.FGSM, "2/255", 0.405),
        judged(phases.FREE, "2/255", 0.40),
        judged(phases.FGSM, "4/255", 0.30),
        judged(phases.FREE, "4/255", 0.40),
    ]
    found = [claim.verdict(Results(runs)) for claim in phases.PHASES.claims]
    assert [each.word for each in found] == ["agrees", "differs", "agrees", "agrees", "differs", "not run"]
    assert [each.ours for each in found[:5]] == [
        "40.5 and 40.0",
        "30.0 and 40.0",
        "0.30 of Free's time (30 and 100 s)",
        "0.25, 0.50 and 1",
        "at most 11.00 points",
    ]


def test_the_rates_are_drawn_without_a_run_and_those_of_the_phases_fall_by_tens() -> None:
    rows = phases.PHASES.charts["rates"](Results([]))["data"]["values"]
    of_imagenet = {row["epoch"]: row["rate"] for row in rows if row["schedule"].startswith("ImageNet")}
    assert [of_imagenet[epoch] for epoch in (0, 1, 6, 12, 15)] == pytest.approx([0, 1, 0.1, 0.01, 0.001])
