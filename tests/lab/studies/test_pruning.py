"""Every point of these studies can be run, and no two are the same; their claims tell good figures from bad ones."""

from __future__ import annotations

import pytest

from sparring.lab.results import Results
from sparring.lab.studies import pruning
from sparring.lab.study import SIZES, Size
from tests.support.studies import record, require_sound, studies_in

STUDIES = studies_in(pruning)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", STUDIES)
def test_every_point_can_be_run(name: str, size: Size) -> None:
    require_sound(STUDIES[name], size)


def test_later_pruning_gains_little_or_much() -> None:
    def verdict(*accuracies: float) -> str:
        at = {"data": "MNIST", "strategy": "random", "seed": 0}
        runs = [
            record("evaluate", {**at, "dropped": share, "epoch": epoch}, robust_accuracy=accuracy)
            for share in (0.7, 0.9)
            for epoch, accuracy in enumerate(accuracies, 1)
        ]
        claim = next(each for each in STUDIES["pruning"].claims if "later" in each.text)
        return claim.verdict(Results(runs)).word

    assert (verdict(0.4, 0.1, 0.42), verdict(0.2, 0.4, 0.5), verdict(0.5, 0.4, 0.3)) == ("agrees", "differs", "open")
