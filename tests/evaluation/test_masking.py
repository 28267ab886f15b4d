"""The verdict on masked gradients: five networks that mask on purpose are found, five sound ones are not accused."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from benchmarks.masked_gradients import EPSILON, MASKING, SOUND, Changed, base, judged, looked_up
from sparring.attacks import PGD
from sparring.config import EvaluationSettings
from sparring.errors import UsageError
from sparring.evaluation.masking import NOTES, Evidence, Grid, Masking, masking
from sparring.evaluation.outcomes import Outcomes, outcomes
from sparring.evaluation.surfaces import LENGTHS, Surface
from tests.support.judged import examples, network

SETTINGS = EvaluationSettings(samples=100, steps=10, restarts=1, square_queries=100)
N = 100
POINTS = {  # what must be among the evidence
    "scaled logits": {"zero gradients", "loss surface"},
    "quantised input": {"zero gradients", "loss surface", "zero steps", "black box", "unbounded ball"},
    "random resizing": {"random gradients"},
    "sigmoid saturation": {"zero gradients", "loss surface", "zero steps", "unbounded ball"},
    "lookup table": {"loss surface"},
}


@cache
def verdict_on(name: str) -> Masking:
    return judged((MASKING | SOUND)[name](0), 0, SETTINGS).masking


def pointing(found: Masking) -> set[str]:
    return {each.name for each in found.evidence if each.points}


@pytest.mark.parametrize("name", MASKING)
def test_a_network_that_masks_is_found(name: str) -> None:
    found = verdict_on(name)
    assert found.verdict == "masked" and pointing(found) >= POINTS[name]


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_network_is_not_accused(name: str) -> None:
    found = verdict_on(name)
    assert (found.verdict, pointing(found), found.note) == ("no sign of masking", set(), NOTES["none"])


def test_of_scaled_logits_it_says_that_pgd_is_not_fooled() -> None:
    found = verdict_on("scaled logits")
    assert pointing(found) == {"zero gradients", "loss surface"} and found.note == NOTES["gradient"]
    assert verdict_on("quantised input").note == NOTES["attacks"]


def test_a_table_without_a_backward_pass_is_refused() -> None:
    with pytest.raises(UsageError, match="its logits have no gradient"):
        judged(Changed(base(0), images=looked_up), 0, SETTINGS)


def test_every_piece_of_evidence_has_its_counts() -> None:
    for each in verdict_on("tanh").evidence:
        assert 0 <= each.count <= each.samples <= 100 and f"of {each.samples} examples" in each.measured, each
        assert each.interval is not None or each.p_value is not None


def flags(count: int, total: int = N) -> torch.Tensor:
    return torch.arange(total) < count


def judge(zero: int = 0, varies: int = 0, wins: int = N, **grid: Any) -> dict[str, Evidence]:
    """Of a grid in which all attacks leave half of the examples, and the unbounded one none."""
    surface = Surface(flags(N), flags(zero), flags(varies), flags(wins)[:, None].expand(-1, len(LENGTHS)))
    half, none = flags(N // 2), flags(0)
    same = Grid([("ε = 0.1", half), ("ε = 1", none)], [("PGD-1", half), ("PGD-9", half)], None, strongest(), steps=10)
    return {each.name: each for each in masking(surface, replace(same, **grid)).evidence}


@cache
def strongest() -> Outcomes:
    return outcomes(network(), examples(N), PGD(EPSILON, steps=1))


@pytest.mark.parametrize(("count", "points"), [(0, False), (9, False), (10, True), (N, True)])
def test_a_share_points_from_where_its_interval_leaves_five_per_cent(count: int, points: bool) -> None:
    assert judge(zero=count)["zero gradients"].points is points
    assert judge(varies=count)["random gradients"].points is points


@pytest.mark.parametrize(("wins", "points"), [(N, False), (50, False), (38, False), (37, True), (0, True)])
def test_the_gradient_must_lose_on_most_examples(wins: int, points: bool) -> None:
    assert judge(wins=wins)["loss surface"].points is points


def test_one_length_at_which_the_gradient_wins_is_enough() -> None:
    rises = torch.stack([flags(N), flags(0), flags(0)], 1)
    surface = Surface(flags(N), flags(0), flags(0), rises)
    grid = Grid([("ε = 1", flags(0))] * 2, [("PGD-1", flags(0))] * 2, None, strongest(), steps=10)
    assert masking(surface, grid).verdict == "no sign of masking"


def test_the_orders_are_told_apart() -> None:
    few, many = flags(40), flags(60)
    found = judge(black_box=("Square", few), by_steps=[("PGD-1", few), ("PGD-9", many)])
    assert found["black box"].points and found["more steps"].points and not found["larger ε"].points
    assert found["more steps"].p_value == 2**-20 and found["more steps"].count == 20
    assert "black box" not in judge()


@pytest.mark.parametrize(("left", "steps", "points"), [(9, 10, True), (9, 9, False), (0, 10, False)])
def test_an_unbounded_attack_must_leave_next_to_nothing_if_it_makes_enough_steps(
    left: int, steps: int, points: bool
) -> None:
    found = judge(by_epsilon=[("ε = 0.1", flags(50)), ("ε = 1", flags(left))], steps=steps)["unbounded ball"]
    assert found.points is points and ("9 steps are too few to tell" in found.measured) is (steps < 10)


def test_without_a_right_example_nothing_is_said() -> None:
    nobody = Surface(flags(0), flags(0), flags(0), flags(0)[:, None].expand(-1, len(LENGTHS)))
    grid = Grid([("ε = 1", flags(0))] * 2, [("PGD-1", flags(0))] * 2, None, strongest(), steps=10)
    assert masking(nobody, grid).verdict == "no sign of masking"
