"""A sample has every class in its share, whatever the order of the data; the rule of the draw goes with it."""

from __future__ import annotations

import pytest
import torch

from sparring.config import DataSettings
from sparring.data import ArrayDataset, Dataset, load
from sparring.data.sampling import Sample, stratified


def sorted_by_class(*counts: int) -> Dataset:
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return ArrayDataset(torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8), labels, len(counts), "toy")


@pytest.mark.parametrize(
    ("counts", "samples", "expected"),
    [
        ((30, 30, 30, 30), 30, ({7, 8}, {7, 8}, {7, 8}, {7, 8})),
        ((30, 30, 30, 30), 40, ({10}, {10}, {10}, {10})),
        ((90, 10), 10, ({9}, {1})),
        ((60, 30, 10), 50, ({30}, {15}, {5})),
        ((97, 1, 2), 50, ({48, 49}, {0, 1}, {1})),
        ((3, 3, 3), 9, ({3}, {3}, {3})),
    ],
)
def test_each_class_has_its_share(counts: tuple[int, ...], samples: int, expected: tuple[set[int], ...]) -> None:
    drawn = Sample(sorted_by_class(*counts), samples)
    found = torch.bincount(drawn.labels, minlength=len(counts)).tolist()
    assert sum(found) == samples and all(count in allowed for count, allowed in zip(found, expected, strict=True))


def test_within_a_class_the_draw_is_random_and_repeats() -> None:
    labels = torch.zeros(1000, dtype=torch.int64)
    drawn = stratified(labels, 100)
    assert torch.equal(drawn, stratified(labels, 100)) and not torch.equal(drawn, stratified(labels, 100, seed=1))
    assert len(set(drawn.tolist())) == 100 and torch.equal(drawn, drawn.sort().values)
    assert 400 < float(drawn.double().mean()) < 600  # a mean of 100 uniform draws is off by 100 at 3.5 deviations


def test_a_larger_sample_contains_a_smaller_one() -> None:
    labels = torch.arange(200) % 7
    small, large = (set(stratified(labels, count).tolist()) for count in (20, 50))
    assert small < large


def test_fewer_examples_than_classes_are_of_different_classes_and_it_is_said() -> None:
    drawn = Sample(sorted_by_class(*[10] * 8), 3)
    assert len(set(drawn.labels.tolist())) == 3
    assert drawn.warnings == ["The 3 examples hold 3 of 8 classes: the figure says nothing of the others."]
    assert Sample(sorted_by_class(*[10] * 8), 8).warnings == []


def test_the_first_ones_can_be_had_by_name() -> None:
    drawn = Sample(sorted_by_class(30, 30), 20, "first")
    assert drawn.labels.tolist() == [0] * 20 and drawn.rule == "the first of 60"
    assert drawn.warnings == ["The 20 examples hold 1 of 2 classes: the figure says nothing of the others."]


@pytest.mark.parametrize("samples", [None, 60, 1000])
@pytest.mark.parametrize("draw", ["stratified", "first"])
def test_a_sample_of_everything_is_everything_in_its_order(samples: int | None, draw: str) -> None:
    drawn = Sample(sorted_by_class(30, 30), samples, draw)  # type: ignore[arg-type]
    assert drawn.indices.tolist() == list(range(60)) and drawn.rule.startswith("all")


def test_limited_training_data_have_every_class() -> None:
    full, limited = load(DataSettings(), "train"), load(DataSettings(limit=100), "train")
    shares = torch.bincount(full.labels) * (100 / len(full))
    assert len(limited) == 100
    assert all(abs(found - share) < 1 for found, share in zip(torch.bincount(limited.labels), shares, strict=True))
    assert Sample(full, 100).rule == "drawn from 1437 with seed 0, each class in its share"


@pytest.mark.parametrize(("samples", "rule"), [(None, "all"), (360, "all"), (1000, "all 360: there are no 1000")])
def test_that_there_are_not_so_many_is_said(samples: int | None, rule: str) -> None:
    assert Sample(load(DataSettings(), "test"), samples).rule == rule
