"""The answer on a piece is that of an evaluation in mode fast, and what is asked depends on the settings alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks import PGD
from sparring.config import EvaluationSettings
from sparring.data import TrainingSet
from sparring.errors import SparringError
from sparring.evaluation.judging import judge
from sparring.evaluation.rolling import answer, attacks_of, questions
from sparring.evaluation.tickets import InProcess
from tests.support.digits import training_digits
from tests.support.judged import EPSILON, network


@pytest.fixture(scope="module")
def digits() -> TrainingSet:
    return training_digits()


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """Right and robust on some examples, and wrong on all that are a nought."""
    model = copy.deepcopy(network())
    with torch.no_grad():
        list(model.parameters())[-1][0] -= 100
    return model


def settings(**values: object) -> EvaluationSettings:
    return EvaluationSettings.model_validate({"rolling": True, "rolling_samples": 40, "rolling_batch": 16, **values})


def test_the_answers_are_those_of_an_evaluation_in_mode_fast(digits: TrainingSet, model: nn.Module) -> None:
    asked = questions(settings(), digits, PGD(EPSILON), seed=3)
    assert [len(piece) for piece in asked.pieces] == [16, 16, 8]
    found = [answer(model, asked, number) for number in range(3)]
    whole = judge(InProcess([model]), asked.sample, asked.panel, batch_size=16, mode="fast").outcomes
    assert [flag for each in found for flag in each.clean] == whole.clean.tolist()
    assert [flag for each in found for flag in each.robust] == whole.robust.tolist()
    assert 0 < sum(whole.robust) < sum(whole.clean) < 40


def test_the_order_of_the_pieces_changes_nothing(digits: TrainingSet, model: nn.Module) -> None:
    asked = questions(settings(), digits, PGD(EPSILON), seed=3)
    torch.manual_seed(1)
    first = [answer(model, asked, number) for number in (0, 1, 2)]
    torch.manual_seed(2)
    assert [answer(model, asked, number) for number in (2, 1, 0)] == first[::-1]


class Broken(nn.Module):
    """Logits that are not finite on bright images."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layer(x.flatten(1))
        return torch.where(x.flatten(1).mean(1, keepdim=True) > 0, torch.nan, logits)


def test_what_has_no_finite_logits_is_wrong(digits: TrainingSet) -> None:
    found = answer(Broken(), questions(settings(), digits, PGD(EPSILON), seed=0), 0)
    assert not any(found.robust) and len(found.robust) == 16


@pytest.mark.parametrize(
    ("classes", "chosen", "attacks"),
    [
        (10, (), ("apgd-ce", "apgd-t")),
        (4, (), ("apgd-ce", "apgd-t")),
        (3, (), ("apgd-ce",)),
        (2, (), ("apgd-ce",)),
        (10, ("square",), ("square",)),
    ],
)
def test_the_default_attacks_are_those_that_the_classes_allow(
    classes: int, chosen: tuple[str, ...], attacks: tuple[str, ...]
) -> None:
    assert attacks_of(settings(rolling_attacks=chosen), classes) == attacks


def test_an_attack_that_needs_more_classes_is_refused_by_name() -> None:
    with pytest.raises(SparringError, match=r"evaluation\.rolling_attacks.*apgd-t"):
        attacks_of(settings(rolling_attacks=("apgd-t",)), 3)


def test_figures_of_other_examples_or_attacks_are_told_apart(digits: TrainingSet) -> None:
    asked = [
        questions(settings(), digits, PGD(EPSILON), seed=0),
        questions(settings(rolling_samples=41), digits, PGD(EPSILON), seed=0),
        questions(settings(rolling_attacks=("square",)), digits, PGD(EPSILON), seed=0),
        questions(settings(), digits, PGD(2 * EPSILON), seed=0),
    ]
    assert len({each.identity for each in asked}) == 4
