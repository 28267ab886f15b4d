"""The weights of the last steps."""

from __future__ import annotations

import torch
from torch import nn

from sparring.models.arrays import helper_of, load_arrays
from sparring.queue.messages import Controls
from sparring.trainer.history import History, networks_of


def filled(length: int, *versions: int) -> History:
    history = History(length)
    for version in versions:
        history.remember(version, {"w": torch.full((2,), float(version))}, Controls(0.1 * version))
    return history


def test_the_last_are_kept_and_older_ones_are_answered_with_the_oldest() -> None:
    history = filled(3, 0, 1, 2, 3)
    assert [history.at(version).version for version in (3, 2, 1, 0)] == [3, 2, 1, 1]
    assert [history.holds(version) for version in range(5)] == [False, True, True, True, False]
    assert [past.version for past in history.before(3)] == [1, 2] and not History(2).holds(0)


def test_copies_do_not_change_with_the_weights_and_a_step_is_kept_once() -> None:
    history, weights = History(2), {"w": torch.zeros(2)}
    history.remember(0, weights, Controls(0.1))
    weights["w"] += 1
    history.remember(0, weights, Controls(0.2))
    assert history.at(0).weights["w"].tolist() == [0, 0] and history.at(0).controls == Controls(0.1)


def test_it_continues_from_its_state() -> None:
    history, again = filled(2, 4, 5, 6), History(2)
    again.restore(history.state())
    assert [past.version for past in again.before(9)] == [5, 6] and again.at(6).controls == Controls(0.1 * 6)
    again.restore(None)
    assert again.before(9) == []


def test_what_is_remembered_is_published_as_the_weights_themselves_are() -> None:
    model, helper = nn.Linear(2, 3), nn.Linear(4, 1)
    history = History(1)
    history.remember(0, networks_of(model, helper).state_dict(), Controls(0.1))
    arrays, other, other_helper = history.at(0).arrays(), nn.Linear(2, 3), nn.Linear(4, 1)
    load_arrays(other, arrays)
    load_arrays(other_helper, helper_of(arrays))
    assert torch.equal(other.weight, model.weight) and torch.equal(other_helper.weight, helper.weight)
