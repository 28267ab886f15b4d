"""Every point of these studies can be run, and no two are the same; their claims tell good figures from bad ones."""

from __future__ import annotations

import pytest

from sparring.lab.results import Results
from sparring.lab.studies import attacker_power
from sparring.lab.study import SIZES, Size
from tests.support.studies import record, require_sound, studies_in

STUDIES = studies_in(attacker_power)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", STUDIES)
def test_every_point_can_be_run(name: str, size: Size) -> None:
    require_sound(STUDIES[name], size)


def record_of_transfer(own: float, crossed: float) -> Results:
    matrix = {"members": [{"kappa": 1}, {"kappa": 8}], "accuracy": [[own, 0.9], [crossed, 0.9]]}
    return Results(
        [
            {"does": "transfer", "at": {"seed": 0}, "figures": matrix},
            record("evaluate", {"kappa": 1, "by": 1, "seed": 0}, robust_accuracy=own),
        ]
    )


def test_masked_gradients_are_told_by_transfer() -> None:
    masked = attacker_power.ATTACKER_POWER.claims[0]
    assert masked.verdict(record_of_transfer(0.98, 0.27)).word == "agrees"
    assert masked.verdict(record_of_transfer(0.27, 0.98)).word == "differs"
    assert attacker_power.crossed(record_of_transfer(0.98, 0.27), source=8, target=1) == 27
    assert attacker_power.crossed(record_of_transfer(0.98, 0.27), source=1, target=8) == 90
    with pytest.raises(LookupError):
        attacker_power.crossed(record_of_transfer(0.98, 0.27), source=2, target=8)
