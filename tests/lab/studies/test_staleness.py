"""Every point of these studies can be run, and no two are the same; their claims tell good figures from bad ones."""

from __future__ import annotations

import pytest

from sparring.lab.results import Results
from sparring.lab.studies import staleness
from sparring.lab.study import SIZES, Size
from tests.support.studies import record, require_sound, studies_in

STUDIES = studies_in(staleness)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", STUDIES)
def test_every_point_can_be_run(name: str, size: Size) -> None:
    require_sound(STUDIES[name], size)


def test_the_cliff_is_told_at_the_lowest_rate() -> None:
    def at(s: int, rate: float, robust: float) -> dict[str, object]:
        return record("train", {"s": s, "rate": rate, "guard": "off", "seed": 0}, robust_accuracy=robust)

    results = Results([at(0, 0.1, 0.1), at(0, 0.01, 0.9), at(32, 0.01, 0.89), at(64, 0.01, 0.05), at(64, 0.1, 0.8)])
    words = [claim.verdict(results).word for claim in staleness.STALENESS.claims]
    assert words[:2] == ["agrees", "agrees"] and words[3:] == ["not run", "not run"]


def test_a_broken_run_that_is_shorter_than_the_papers_decides_nothing() -> None:
    def verdict(steps: int, end: float) -> str:
        runs = [
            record("train", {"times": times, "seed": 0}, robust_accuracy=robust, steps=steps * times // 5)
            for times, robust in ((1, 0.05), (5, end))
        ]
        return STUDIES["broken-run"].claims[0].verdict(Results(runs)).word

    assert (verdict(3000, 0.0), verdict(3000, 0.9)) == ("open", "agrees")
    assert (verdict(300_000, 0.05), verdict(300_000, 0.9)) == ("differs", "agrees")
