"""Cases show what one bound does not, and never what is not so."""

from __future__ import annotations

import numpy as np

from sparring.evaluation.branching import above_in_all_cases
from sparring.evaluation.relaxation import box_of, by_crown, lower_bounds
from sparring.evaluation.relu_network import relu_network
from sparring.evaluation.verification import margin_rows
from tests.support.relu import least_margin_by_patterns, random_network

FOREVER = float("inf")


def test_cases_show_margins_that_one_bound_does_not_and_no_wrong_ones() -> None:
    shown = 0
    for seed in range(12):
        model = random_network(seed, (2, 3, 3, 2))
        network, image = relu_network(model, (1, 1, 2)), np.random.default_rng(seed).uniform(0, 1, 2)
        label, box = int(network.logits(image[None]).argmax()), box_of(image, 0.3)
        bounds, row = by_crown(network, box), margin_rows(2, label)[0]
        bound = lower_bounds(network, box, bounds, row)[0]
        truth = least_margin_by_patterns(model, *box, label, 1 - label)
        for least in ((2 * bound + truth) / 3, truth + 1e-3, 0.0):
            above = above_in_all_cases(network, box, bounds, row, least, FOREVER)
            assert not above or truth > least
            shown += above and bound < least
    assert shown >= 3


def test_it_gives_up_when_its_time_is_up_and_where_there_is_nothing_to_split() -> None:
    network = relu_network(random_network(0, (9, 8, 6, 3)), (1, 3, 3))
    image = np.random.default_rng(0).uniform(0, 1, 9)
    row = margin_rows(3, int(network.logits(image[None]).argmin()))[0][[0]]
    for box, deadline in ((box_of(image, 0.3), -1.0), (box_of(image, 0.0), FOREVER)):
        assert not above_in_all_cases(network, box, by_crown(network, box), row, 0.0, deadline)
    linear = relu_network(random_network(0, (9, 3)), (1, 3, 3))
    assert not above_in_all_cases(linear, box, by_crown(linear, box), row, 0.0, FOREVER)
