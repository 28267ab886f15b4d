"""A panel says what its verdicts depend on, alike in every process."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sparring.attacks import PGD
from sparring.evaluation.panels import AutoAttackPanel, Restarts
from tests.support.judged import PGD_3, examples, network


def test_the_identity_of_restarts_is_all_but_their_number() -> None:
    base = Restarts(PGD_3, 0).identity
    assert Restarts(replace(PGD_3, restarts=9), 0).identity == base
    changed: list[Any] = [replace(PGD_3, **change) for change in CHANGES]
    others = [Restarts(PGD_3, 1), *(Restarts(attack, 0) for attack in changed)]
    identities = [json.dumps(each.identity, sort_keys=True) for each in others]
    assert len({*identities, json.dumps(base, sort_keys=True)}) == len(CHANGES) + 2


CHANGES: tuple[dict[str, Any], ...] = (
    {"epsilon": 0.1},
    {"steps": 6},
    {"step_size": 0.01},
    {"norm": "l2"},
    {"start": "gaussian"},
    {"loss": "kl"},
)


def test_it_is_the_same_in_another_process() -> None:
    code = "from tests.evaluation.test_panels import *; print(json.dumps(Restarts(PGD_3, 0).identity))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, cwd=Path(__file__).parents[2])
    assert json.loads(said.stdout) == Restarts(PGD_3, 0).identity


def test_autoattacks_versions_have_their_attacks_and_own_identities() -> None:
    standard, plus = (AutoAttackPanel("linf", 0.1, 10, 0, version) for version in ("standard", "plus"))
    assert plus.names == ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t")
    assert replace(plus, classes=2).names == ("apgd-ce", "fab", "square"), "a target is the other class"
    assert standard.identity != plus.identity == replace(plus, attacks=("square",)).identity
    chosen = replace(standard, attacks=("square", "apgd-ce"))
    assert chosen.names == ("square", "apgd-ce")
    assert chosen.description == "AutoAttack of (square, apgd-ce), linf 0.1"
    assert plus.description.startswith("AutoAttack plus (apgd-ce, apgd-dlr, fab,")


def test_a_strike_counts_what_it_asked_of_each_example() -> None:
    x, y = examples(8).images(torch.arange(8)).float() / 255, examples(8).labels
    struck = Restarts(PGD(0.0, steps=4), 0).strike("restart 1", network(), x, y, 0, None)
    assert struck.queries.tolist() == [5] * 8 and torch.equal(struck.images, x)
    panel = AutoAttackPanel("linf", 1e-4, 10, 0, attacks=("apgd-ce",))
    assert (panel.strike("apgd-ce", network(), x, y, 0, None).queries > 100).all()
