"""A fresh finish: an attack begins under the weights of some steps before, and ends under the present ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
