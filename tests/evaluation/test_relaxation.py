"""Bounds hold for every image of the box, and tighter ones lie within wider ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import nn

from sparring.evaluation import relaxation
from sparring.evaluation.relaxation import Bounds, Lines, box_of, by_crown, by_intervals, lines_of, lower_bounds
from sparring.evaluation.relu_network import Array, ReluNetwork, relu_network
from tests.support.relu import random_network

SHAPE = (1, 5, 5)


def convolutional(seed: int) -> ReluNetwork:
    torch.manual_seed(seed)
    return relu_network(
        nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(18, 4)
        ),
        SHAPE,
    )


def dense(seed: int) -> ReluNetwork:
    return relu_network(random_network(seed, (25, 20, 15, 4)), SHAPE)


def some_of(box: Bounds, seed: int) -> Array:
    """Images of the box: inside it, on its edges and at its corners."""
    random = np.random.default_rng(seed)
    inner = random.uniform(0, 1, (2000, len(box.lower)))
    inner[500:] = np.round(inner[500:])
    inner[1500:] = np.where(random.uniform(size=(500, 1)) < 0.5, inner[1500:], random.uniform(size=inner[1500:].shape))
    return box.lower + inner * (box.upper - box.lower)


def most_outside(network: ReluNetwork, bounds: list[Bounds], images: Array) -> float:
    """How far a value of these images lies outside its bounds; at most 0 where all are inside."""
    values = network.preactivations(images)
    return max(
        float(np.maximum(each.lower - value, value - each.upper).max())
        for value, each in zip(values, bounds, strict=True)
    )


@pytest.mark.parametrize("epsilon", [0.0, 0.02, 0.1, 1.0])
@pytest.mark.parametrize("make", [dense, convolutional])
@pytest.mark.parametrize("seed", range(3))
def test_bounds_hold_everywhere_and_lie_within_wider_ones(make: object, seed: int, epsilon: float) -> None:
    assert callable(make)
    network, image = make(seed), np.random.default_rng(seed).uniform(0, 1, 25)
    box = box_of(image, epsilon)
    intervals, crown, stepped = by_intervals(network, box), by_crown(network, box), by_crown(network, box, steps=5)
    images = some_of(box, seed)
    for bounds in (intervals, crown, stepped):
        assert most_outside(network, bounds, images) < 0
    for wide, tight in ((intervals, crown), (crown, stepped)):
        assert all((a.lower <= b.lower).all() and (a.upper >= b.upper).all() for a, b in zip(wide, tight, strict=True))
    if epsilon == 0:
        assert most_outside(network, crown, images) > -1e-6, "of one image they are its values"
    if epsilon == 0.1:
        assert np.mean(stepped[-1].lower) > np.mean(crown[-1].lower) > np.mean(intervals[-1].lower)


def test_a_wrong_line_above_a_relu_is_seen_by_these_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_low(bounds: Bounds) -> Lines:
        return lines_of(bounds)._replace(offset=np.zeros(len(bounds.lower)))

    monkeypatch.setattr(relaxation, "lines_of", too_low)
    box = box_of(np.random.default_rng(0).uniform(0, 1, 25), 0.02)
    assert max(most_outside(each, by_crown(each, box), some_of(box, 0)) for each in map(dense, range(8))) > 0.001


def test_a_bound_of_a_sum_is_tighter_than_the_sum_of_bounds() -> None:
    """max(0, x) − max(0, x) is 0: intervals do not see it, linear relaxation does."""
    twice = nn.Linear(1, 2)
    with torch.no_grad():
        twice.weight.fill_(1.0)
        twice.bias.fill_(-0.5)
    network = relu_network(nn.Sequential(nn.Flatten(), twice, nn.ReLU(), nn.Linear(2, 2)), (1, 1, 1))
    box = box_of(np.array([0.5]), 0.5)
    rows = sparse.csr_array(np.array([[1.0, -1.0]]))
    found = lower_bounds(network, box, by_intervals(network, box), rows, layer=0)
    assert -1e-6 < found[0] <= 0


@pytest.mark.parametrize("seed", range(4))
def test_conditions_tighten_a_bound_and_it_holds_where_they_do(seed: int) -> None:
    network, random = dense(seed), np.random.default_rng(seed)
    box = box_of(random.uniform(0, 1, 25), 0.1)
    bounds, rows = by_crown(network, box), sparse.csr_array(random.normal(size=(6, 4)))
    images = some_of(box, seed)
    _, last, logits = network.preactivations(images)
    held = np.zeros(15)
    held[bounds[1].unstable] = np.sign(last[0, bounds[1].unstable])
    free = lower_bounds(network, box, bounds, rows, steps=10)
    priced = lower_bounds(network, box, bounds, rows, steps=10, held=held)
    inside = np.all(last * held >= 0, axis=1)
    assert inside[0] and ((logits[inside] @ rows.T.toarray()).min(0) > priced).all()
    assert priced.mean() > free.mean()
