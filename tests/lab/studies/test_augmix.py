"""Every point of these studies can be run, and no two are the same; their claims tell good figures from bad ones."""

from __future__ import annotations

import pytest

from sparring.lab.studies import augmix
from sparring.lab.study import SIZES, Size
from tests.support.studies import require_sound, studies_in

STUDIES = studies_in(augmix)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", STUDIES)
def test_every_point_can_be_run(name: str, size: Size) -> None:
    require_sound(STUDIES[name], size)
