"""Figures are found by coordinates, and a missing one is an error and no zero."""

from __future__ import annotations

import pytest

from sparring.lab.results import Results
from tests.support.studies import record

RESULTS = Results(
    [
        record("train", {"s": 0, "seed": 0}, robust=0.5, extra=None),
        record("train", {"s": 0, "seed": 1}, robust=0.7),
        record("train", {"s": 4, "seed": 0}, robust=0.1),
        record("evaluate", {"s": 0, "seed": 0}, robust=0.3),
    ]
)


def test_figures_are_found_by_what_was_done_and_where() -> None:
    assert RESULTS.values("robust", "train", s=0) == [0.5, 0.7] and RESULTS.mean("robust", "train", s=0) == 0.6
    assert RESULTS.mean("robust", "evaluate") == 0.3 and RESULTS.mean("robust", s=4) == 0.1
    assert RESULTS.coordinates("s") == [0, 4] and len(RESULTS.of("train")) == 3


@pytest.mark.parametrize(("figure", "at"), [("robust", {"s": 9}), ("clean", {}), ("extra", {}), ("robust", {"t": 0})])
def test_what_was_not_run_is_an_error(figure: str, at: dict[str, int]) -> None:
    with pytest.raises(LookupError, match="no point"):
        RESULTS.mean(figure, **at)
    with pytest.raises(LookupError, match="no point"):
        Results([]).coordinates("s")
