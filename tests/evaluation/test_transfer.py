"""The transfer matrix: whose examples, given to whom; and what does not compare is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sparring.attacks import FGSM, PGD, Attack
from sparring.config import EvaluationSettings
from sparring.data import ArrayDataset
from sparring.errors import UsageError
from sparring.evaluation.robustness import interval
from sparring.evaluation.transfer import Matrix, Member, transfer
from tests.support.judged import Backwards
from tests.support.models import Brightness, Shattered, distances, greys

PGD_3 = PGD(0.1, steps=3)
MARGINS = torch.cat([torch.linspace(0.03, 0.41, 20), -torch.linspace(0.03, 0.41, 20)])


def member(called: str, model: Brightness, test: ArrayDataset | None = None, threat: Attack = PGD_3) -> Member:
    return Member(called, model, test or greys(MARGINS), threat, "greys", "step-000000001")


def matrix(*members: Member, as_trained: bool = False, **settings: Any) -> Matrix:
    values = {"steps": 10, "restarts": 2, "batch_size": 16, **settings}
    return transfer(members, EvaluationSettings.model_validate(values), seed=0, as_trained=as_trained)


def test_what_withstands_only_its_own_examples_falls_to_those_of_another() -> None:
    """Exactly the images farther than ε from the boundary are robust; the shattered model hides that from gradients."""
    robust = int((distances(greys(MARGINS)) > 0.1).sum()) / 40
    found = matrix(member("smooth", Brightness()), member("shattered", Shattered()))
    assert found.accuracy[0] == [pytest.approx(robust), pytest.approx(robust)]
    assert found.accuracy[1][1] > robust + 0.1, "white-box: its gradients lead nowhere"
    assert {text.split(":")[0] for text in found.warnings} == {
        "shattered",  # gradients of zero
        "shattered on its own examples",
    }
    assert found.clean == [1.0, 1.0] and found.samples == 40
    assert found.attacks == ["PGD-10, 2 restarts, step 0.025, linf 0.1"] * 2


def test_an_image_that_is_wrong_when_clean_is_never_robust() -> None:
    """The attack of the second model pushes the first's mistake to the right side."""

    class Opposite(Brightness):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """The other class."""
            return super().forward(x).flip(1)

    mislabelled = greys(torch.tensor([0.05, 0.3]), torch.tensor([0, 1]))
    found = matrix(member("a", Opposite(), mislabelled), member("b", Brightness(), mislabelled))
    assert found.clean == [0.5, 0.5] and found.accuracy[0] == [0.0, 0.5]


def test_it_is_the_same_whoever_does_the_tickets_in_whatever_order() -> None:
    members = [member("smooth", Brightness()), member("shattered", Shattered())]
    settings = EvaluationSettings(steps=10, restarts=2, batch_size=16)
    others = Backwards([each.model for each in members])
    assert transfer(members, settings, seed=0, judges=others) == transfer(members, settings, seed=0)


def test_the_count_and_the_intervals_are_told() -> None:
    found = matrix(member("a", Brightness()), member("b", Shattered()), samples=7)
    assert found.samples == 7
    for shares, reaches in zip(found.accuracy, found.interval, strict=True):
        assert reaches == [interval(round(7 * share), 7) for share in shares]


def test_as_trained_each_source_attacks_as_it_was_trained() -> None:
    threats = [FGSM(0.1), PGD(0.1, steps=4), PGD(0.1, steps=4, start="gaussian", loss="kl")]
    sources = [member(name, Brightness(), threat=threat) for name, threat in zip("abc", threats, strict=True)]
    found = matrix(*sources, as_trained=True)
    assert found.attacks == [
        "FGSM-1, 1 restart, step 0.1, linf 0.1, zero start",
        "PGD-4, 1 restart, step 0.0625, linf 0.1",
        "PGD-4, 1 restart, step 0.0625, linf 0.1, gaussian start",
    ]
    assert found.clean_interval == [interval(round(40 * share), 40) for share in found.clean]


@pytest.mark.parametrize(
    ("other", "reported"),
    [
        ({"threat": PGD(0.2, steps=3)}, "attack.epsilon = 0.1 in a and 0.2 in b"),
        ({"threat": PGD(0.1, norm="l2", steps=3)}, "attack.norm = 'linf' in a and 'l2' in b"),
        ({"test": greys(MARGINS[:5])}, "data.name = 'greys' in a and 'greys' in b"),
    ],
)
def test_other_data_or_another_ball_are_refused(other: dict[str, Any], reported: str) -> None:
    with pytest.raises(UsageError, match=reported):
        matrix(member("a", Brightness()), member("b", Brightness(), **other))
