"""Images to look at: right labels before and after, both kinds where there are both, every class, bounded time."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks import PGD, AttackLoss
from sparring.config import Config
from sparring.data import ArrayDataset, load
from sparring.evaluation.showing import FIRST, Prediction, Shown, attack_images, by_turns, chosen, images_at, look


class Brightness(nn.Module):
    """Class 1 where an image of one pixel is brighter than 0.5; nearly all of its probability."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        brightness = 100 * (x.mean((1, 2, 3)) - 0.5)
        return torch.stack([-brightness, brightness], 1)


IMAGES = torch.tensor([0.1, 0.45, 0.55, 0.9, 0.9]).reshape(5, 1, 1, 1)
LABELS = torch.tensor([0, 0, 1, 1, 0])


def test_each_image_is_robust_broken_or_wrong() -> None:
    found = attack_images(Brightness(), IMAGES, LABELS, range(5), PGD(0.1, steps=3), seed=0).shown
    assert [each.kind for each in found] == ["robust", "broken", "broken", "robust", "wrong"]
    assert [each.before.label for each in found] == [0, 0, 1, 1, 1] and found[1].after.label == 1
    assert all(float((each.attacked - each.clean).abs().max()) <= 0.1 + 1e-6 for each in found)
    assert torch.equal(found[4].attacked, found[4].clean)


def test_without_labels_the_attack_leads_away_from_the_prediction() -> None:
    found = attack_images(Brightness(), IMAGES, None, range(5), PGD(0.1, steps=3), seed=0).shown
    assert [(each.label, each.kind) for each in found[-2:]] == [(None, "robust"), (None, "robust")]
    assert found[1].kind == "broken" and (found[1].before.confidence or 0) > 0.9


class NotFinite(Brightness):
    """The logits of what is darker than 0.2 are NaN."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(x.mean((1, 2, 3))[:, None] < 0.2, torch.nan, super().forward(x))


@pytest.mark.parametrize(("labels", "kinds"), [(LABELS, ["wrong", "broken"]), (None, ["wrong", "broken"])])
def test_logits_that_are_not_finite_are_no_class_and_never_right(labels: Tensor | None, kinds: list[str]) -> None:
    """The image of 0.1 has none without an attack, that of 0.25 under it: ε reaches 0.15."""
    x = IMAGES.clone()
    x[1] = 0.25
    labels = None if labels is None else labels[:2]
    looked = attack_images(NotFinite(), x[:2], labels, range(2), PGD(0.1, steps=3, loss=DARKER), seed=0)
    assert [each.kind for each in looked.shown] == kinds and looked.counts == {"wrong": 1, "broken": 1}
    assert looked.shown[0].before == looked.shown[1].after == Prediction(None, None)
    assert any(text.startswith("2 of 2 examples (100.0 %) had logits that are not finite") for text in looked.warnings)


DARKER = AttackLoss(lambda logits, labels: -logits[:, 1])


class Stairs(Brightness):
    """The brightness in steps of 0.25: no gradient, and 0.45 is lost at 0.55."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward((x * 4).round() / 4 - 0.01)


class Drawn(Brightness):
    """Another answer in each pass."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x + 0.1 * torch.randn_like(x))


@pytest.mark.parametrize(
    ("network", "attack", "told"),
    [
        (Stairs(), PGD(0.1), ["met a gradient of exactly zero", "Square"]),
        (Drawn(), PGD(0.1), ["The model is random"]),
        (Brightness(), PGD(0.001), ["less than half a grey level"]),
        (Brightness(), PGD(0.1, step_size=0.001), ["does not reach the edge"]),
        (nn.Sequential(Brightness(), nn.Softmax(1)), PGD(0.1), ["returns probabilities"]),
        (Brightness(), PGD(0.1), []),
    ],
)
def test_what_makes_the_kinds_wrong_is_told_as_beside_a_figure(
    network: nn.Module, attack: PGD, told: list[str]
) -> None:
    x = torch.full((12, 1, 2, 2), 0.45)
    data = ArrayDataset((x * 255).round().byte(), torch.zeros(12).long(), 2, "dark")
    for looked in (
        attack_images(network, x, torch.zeros(12).long(), range(12), attack, seed=0),
        look(network, data, attack, 12),
    ):
        assert all(any(part in text for text in looked.warnings) for part in told), looked.warnings
        assert bool(looked.warnings) == bool(told)


def test_classes_take_turns() -> None:
    labels = torch.tensor([0] * 50 + [1] * 50 + [2] * 50)
    order = by_turns(labels, 30)
    assert labels[order].tolist() == [0, 1, 2] * 10 and len(set(order)) == 30


def shown(place: int, label: int, kind: str) -> Shown:
    before = Prediction(9 if kind == "wrong" else label, 1.0)
    after = Prediction(label if kind == "robust" else 8, 1.0)
    return Shown(place, label, before, after, torch.zeros(1, 1, 1), torch.zeros(1, 1, 1))


def test_both_kinds_and_many_classes_are_chosen() -> None:
    found = [shown(n, n % 5, "broken" if n in (3, 7, 20) else "robust") for n in range(30)]
    taken = chosen(found, 6)
    assert Counter(each.kind for each in taken) == {"robust": 3, "broken": 3}
    assert {each.label for each in taken} == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(("kinds", "expected"), [(["robust"] * 4, 3), (["wrong"] * 2, 2), ([], 0)])
def test_for_want_of_others_what_there_is_is_chosen(kinds: list[str], expected: int) -> None:
    assert len(chosen([shown(n, 0, kind) for n, kind in enumerate(kinds)], 3)) == expected


def test_a_slow_network_gets_few_images() -> None:
    data, network = load(Config().data, "test"), nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    looked = look(network, data, PGD(0.1, steps=2), 12, seconds=0.0)
    assert sum(looked.counts.values()) == FIRST and 0 < len(looked.shown) <= FIRST
    x, y = images_at(data, [5, 7])
    assert x.shape == (2, 1, 8, 8) and x.max() <= 1 and y.tolist() == data.labels[[5, 7]].tolist()
