"""Every point of these studies can be run, and no two are the same; their claims tell good figures from bad ones."""

from __future__ import annotations

import pytest

from sparring.lab.results import Results
from sparring.lab.studies import exchange
from sparring.lab.study import SIZES, Size
from tests.support.studies import record, require_sound, studies_in

STUDIES = studies_in(exchange)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", STUDIES)
def test_every_point_can_be_run(name: str, size: Size) -> None:
    require_sound(STUDIES[name], size)


def test_a_remedy_must_heal_wherever_staleness_costs_something() -> None:
    def verdict(*healed: float) -> str:
        runs = [
            record(
                "train", {"data": "digits", "rate": rate, "s": s, "remedy": remedy, "seed": 0}, robust_accuracy=value
            )
            for rate, stale, end in zip((0.1, 0.2, 0.3), (0.2, 0.5, 0.79), healed, strict=True)
            for s, remedy, value in ((0, "none", 0.8), (16, "none", stale), (16, "exchange", end))
        ]
        return STUDIES["exchange"].claims[0].verdict(Results(runs)).word

    assert verdict(0.8, 0.78, 0.1) == "holds", "at the last rate staleness costs nothing"
    assert verdict(0.8, 0.6, 0.8) == "does not hold"
