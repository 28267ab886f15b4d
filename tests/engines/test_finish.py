"""A fresh finish: an attack begins under the weights of some steps before, and ends under the present ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sparring.commands.replay import replay
from sparring.commands.train import train
from tests.support.runs import small, weights_of


def weights(root: Path, finish: Any, lead: int = 1) -> bytes:
    staleness = {"finish": finish, "lead": lead}
    return weights_of(train(small(root, engine="sync", staleness=staleness, queue={"wire": "exact"})))


def test_with_all_steps_fresh_the_weights_are_those_of_the_synchronous_loop(tmp_path: Path) -> None:
    plain = weights(tmp_path, "off")
    assert weights(tmp_path, 3) == weights(tmp_path, 7, lead=2) == plain
    others = [weights(tmp_path, finish, lead) for finish, lead in ((2, 1), (1, 1), (1, 2), ("auto", 1))]
    assert len({plain, *others}) == 4, "auto is 3 of 3 steps, and each of the others differs"


@pytest.mark.parametrize("engine", ["sync", "virtual"])
def test_dropout_draws_the_same_in_every_life(tmp_path: Path, engine: str) -> None:
    """Its numbers are a function of seed and step, so a run is the same twice, and any part of it can be replayed."""
    (tmp_path / "own.py").write_text(
        "from torch import nn\n"
        "def make(shape, classes):\n"
        "    hidden = [nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.3)]\n"
        "    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(32, classes))\n"
    )
    groups: dict[str, Any] = {
        "engine": engine,
        "model": {"name": f"{tmp_path / 'own.py'}:make"},
        "staleness": {"finish": 1},
        "train": {"max_steps": 8, "epochs": 1},
        "checkpoint": {"every_steps": 4},
    }
    first, second = (train(small(tmp_path, **groups), progress=False) for _ in range(2))
    assert weights_of(first) == weights_of(second)
    assert replay(first.run.path, 4).same, "from a checkpoint on, in another life"
