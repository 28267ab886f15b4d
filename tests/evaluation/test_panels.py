"""A panel says what its verdicts depend on, alike in every process."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sparring.attacks import PGD, frozen
from sparring.config import EvaluationSettings
from sparring.errors import UsageError
from sparring.evaluation.outcomes import attacked_outcomes
from sparring.evaluation.panels import AutoAttackPanel, Restarts
from sparring.evaluation.robustness import targets_of
from tests.support.judged import PGD_3, examples, network
from tests.support.linear import examples as points
from tests.support.linear import linear


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


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_towards_each_other_class_a_linear_network_is_broken_exactly_where_it_can_be(norm: str) -> None:
    """The lead of a class within the ball has a closed form: its logit's minus the label's, and ε times the dual norm
    of the difference of their weights, in float64."""
    model = linear(6)
    x, y = points(model, 64)
    weight, bias = (each.detach().double() for each in (model[1].weight, model[1].bias))  # type: ignore[index]
    logits = x.flatten(1).double() @ weight.T + bias
    lengths = torch.linalg.vector_norm(weight[None] - weight[y][:, None], ord=1 if norm == "linf" else 2, dim=2)
    gaps = (logits.gather(1, y[:, None]) - logits) / lengths.clamp_min(1e-300)
    smallest = gaps.scatter(1, y[:, None], torch.inf).amin(1)
    epsilon = float(smallest.median())
    survives = smallest > epsilon
    sure = (smallest - epsilon).abs() > 1e-3 * epsilon
    found = attacked_outcomes(model, x, y, PGD(epsilon, norm=norm, steps=20), 0, 0, targets=5)[0]
    assert torch.equal(found.robust[sure], survives[sure])
    fewer = attacked_outcomes(model, x, y, PGD(epsilon, norm=norm, steps=20), 0, 0, targets=1)[0]
    assert (fewer.robust | ~found.robust).all(), "more targets never leave more robust"


def test_the_worst_case_over_targets_is_that_of_each_alone() -> None:
    x, y = examples(16).images(torch.arange(16)).float() / 255, examples(16).labels
    panel = Restarts(PGD_3, 0, targets=9)
    assert len(panel.names) == 9 * PGD_3.restarts and panel.names[1] == "restart 1, target 2"
    alone = [panel.strike(name, network(), x, y, 0, None).correct for name in panel.names]
    with frozen(network()):
        found = attacked_outcomes(network(), x, y, PGD_3, 0, 0, targets=9)[0]
    clean = network()(x).argmax(1) == y
    assert torch.equal(found.robust, torch.stack([*alone, clean]).all(0))


def test_known_verdicts_serve_more_targets_and_not_the_untargeted_attack() -> None:
    assert Restarts(PGD_3, 0, targets=2).identity == Restarts(PGD_3, 0, targets=9).identity
    assert Restarts(PGD_3, 0).identity != Restarts(PGD_3, 0, targets=1).identity
    assert Restarts(PGD_3, 0, targets=2).description.startswith(
        "PGD-5 towards 2 classes" if PGD_3.steps == 5 else "PGD"
    )


@pytest.mark.parametrize(("asked", "meant"), [("none", 0), ("all", 9), (3, 3)])
def test_the_setting_says_how_many_classes_are_aimed_at(asked: Any, meant: int) -> None:
    assert targets_of(EvaluationSettings(targets=asked), 10) == meant


def test_more_targets_than_classes_are_refused() -> None:
    with pytest.raises(UsageError, match=r"evaluation\.targets = 10 on data of 10 classes.*at most 9"):
        targets_of(EvaluationSettings(targets=10), 10)
