"""The solver's verdict on a margin is that of trying every activation pattern; it stops when its time is up."""

from __future__ import annotations

import sys
import time

import numpy as np
import pytest

from sparring.errors import SparringError
from sparring.evaluation.mixed_integer import least_margin, program_of, require_solver
from sparring.evaluation.relaxation import Bounds, box_of, by_crown, by_intervals, lower_bounds
from sparring.evaluation.relu_network import Array, ReluNetwork, relu_network
from sparring.evaluation.verification import margin_rows
from tests.support.relu import least_margin_by_patterns, random_network

pytest.importorskip("highspy")
FOREVER = float("inf")


def margin(network: ReluNetwork, label: int, other: int) -> tuple[Array, float]:
    weights, biases = network.weights[-1].toarray(), network.biases[-1]
    return weights[label] - weights[other], biases[label] - biases[other]


@pytest.mark.parametrize("seed", range(8))
def test_the_sign_of_the_least_margin_is_that_of_all_patterns(seed: int) -> None:
    model = random_network(seed, (2 + seed % 2, 4, 2, 2))
    network = relu_network(model, (1, 1, 2 + seed % 2))
    image = np.random.default_rng(seed).uniform(0, 1, 2 + seed % 2)
    label = int(network.logits(image[None]).argmax())
    row, offset = margin(network, label, 1 - label)
    for epsilon in (0.05, 0.2, 0.5):
        box = box_of(image, epsilon)
        truth = least_margin_by_patterns(model, *box, label, 1 - label)
        assert abs(truth) > 1e-3, "else neither answer is wrong"
        for bounds in (by_intervals(network, box), by_crown(network, box)):
            lowest = lower_bounds(network, box, bounds, margin_rows(2, label)[0])[0]
            assert lowest <= truth, "a bound never contradicts it"
            found = least_margin(program_of(network, box, bounds), row, offset, FOREVER)
            assert found.above == (truth > 0) and (found.image is None) == found.above
            if found.image is not None:
                assert (network.logits(found.image[None])[0] @ ([1, -1] if label == 0 else [-1, 1])) <= 1e-6
                assert (found.image >= box.lower - 1e-9).all() and (found.image <= box.upper + 1e-9).all()


def test_a_bound_that_is_wrong_makes_a_wrong_verdict() -> None:
    """So the test above can fail: here each upper bound is a tenth of the right one."""
    wrong = 0
    for seed in range(4):
        model = random_network(seed, (2, 4, 2, 2))
        network = relu_network(model, (1, 1, 2))
        image = np.random.default_rng(seed).uniform(0, 1, 2)
        label, box = int(network.logits(image[None]).argmax()), box_of(image, 0.5)
        bounds = [Bounds(each.lower, each.upper / 10) for each in by_crown(network, box)]
        found = least_margin(program_of(network, box, bounds), *margin(network, label, 1 - label), FOREVER)
        wrong += found.above != (least_margin_by_patterns(model, *box, label, 1 - label) > 0)
    assert wrong


def test_it_gives_up_when_its_time_is_up() -> None:
    network = relu_network(random_network(0, (64, 120, 120, 2)), (1, 8, 8))
    image = np.random.default_rng(0).uniform(0, 1, 64)
    label, box = int(network.logits(image[None]).argmax()), box_of(image, 0.2)
    row, offset = margin(network, label, 1 - label)
    bounds = by_crown(network, box)
    random = np.random.default_rng(1).uniform(box.lower, box.upper, (100, 64))
    lowest = lower_bounds(network, box, bounds, margin_rows(2, label)[0])[0]
    offset -= (lowest + (network.logits(random) @ ([1, -1] if label == 0 else [-1, 1])).min()) / 2  # hard to tell
    program = program_of(network, box, bounds)
    began = time.process_time()
    assert least_margin(program, row, offset, began - 1) == (False, None)
    assert least_margin(program, row, offset, began + 1) == (False, None)
    assert time.process_time() - began < 10


def test_without_the_solver_one_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "highspy", None)
    with pytest.raises(SparringError, match=r"highspy is not installed\. pip install 'sparring\[verify\]'"):
        require_solver()
