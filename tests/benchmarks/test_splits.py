"""A verdict counts only where both engines clearly differ."""

from __future__ import annotations

import pytest

from benchmarks.splits import verdict_holds


@pytest.mark.parametrize(
    ("ours", "ddp", "predicted", "predicted_ddp", "holds"),
    [
        (1.0, 1.04, 1.0, 5.0, None),
        (1.0, 1.2, 1.0, 1.2, True),
        (1.0, 1.2, 1.2, 1.0, False),
        (1.2, 1.0, 1.1, 1.0, True),
        (1.2, 1.0, 1.0, 1.2, False),
    ],
)
def test_it_holds_where_the_faster_one_was_named(
    ours: float, ddp: float, predicted: float, predicted_ddp: float, holds: bool | None
) -> None:
    measured = {"measured_seconds": ours, "measured_ddp_seconds": ddp}
    assert verdict_holds({**measured, "seconds": predicted, "ddp_seconds": predicted_ddp}) is holds
