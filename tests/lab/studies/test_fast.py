"""Every point of these studies can be run, and no two are the same; their claims tell good figures from bad ones."""

from __future__ import annotations

import pytest

from sparring.lab.results import Results
from sparring.lab.studies import fast
from sparring.lab.study import SIZES, Size
from tests.support.studies import record, require_sound, studies_in

STUDIES = studies_in(fast)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", STUDIES)
def test_every_point_can_be_run(name: str, size: Size) -> None:
    require_sound(STUDIES[name], size)


def test_the_fewest_epochs_that_reach_the_target_count() -> None:
    def at(method: str, epochs: int, robust: float, seconds: float) -> dict[str, object]:
        where = {"method": method, "epochs": epochs, "seed": 0}
        return record("train", where, robust_accuracy=robust, training_processor_seconds=seconds)

    results = Results([at("FGSM", 4, 0.9, 40), at("FGSM", 1, 0.5, 10), at("FGSM", 2, 0.8, 20), at("PGD", 1, 0.85, 50)])
    assert fast.seconds_to(results, "FGSM", 0.8) == (2, 20)
    found = fast.TIME.claims[0].verdict(results)
    assert found.word == "agrees" and "Free, m = 8: not reached" in found.ours
    with pytest.raises(LookupError, match="does not reach 95 %"):
        fast.seconds_to(results, "FGSM", 0.95)
