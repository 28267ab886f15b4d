"""What may make a figure wrong is counted beside it, and said."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparring
from sparring.attacks import PGD
from sparring.config import EvaluationSettings
from sparring.data import ArrayDataset
from sparring.errors import SparringError, UsageError
from sparring.evaluation import autoattack as module
from sparring.evaluation.corruptions import corruptions
from sparring.evaluation.curves import curves
from sparring.evaluation.findings import Findings, warnings_of, worst
from sparring.evaluation.outcomes import variation
from sparring.evaluation.robustness import evaluate, evaluate_by_autoattack
from sparring.evaluation.transfer import Member, transfer
from tests.support.models import Brightness, Shattered, distances, greys

EPSILON = 0.1
DATA = greys(torch.linspace(-0.19, 0.19, 40))
SETTINGS = EvaluationSettings(steps=5, restarts=2, square_queries=0)


class Changed(Brightness):
    """The brightness model with logits that `change` makes of its own and of the images, [N, 2] each."""

    def __init__(self, change: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, 2]."""
        return self.change(super().forward(x), x)


def at_bright(value: float) -> Callable[[Tensor, Tensor], Tensor]:
    """`value` as the first logit of images that are brighter than .6 on average."""

    def change(logits: Tensor, x: Tensor) -> Tensor:
        bright = x.flatten(1).mean(1) > 0.6
        return torch.stack([torch.where(bright, value, logits[:, 0]), logits[:, 1]], 1)

    return change


def rooted(logits: Tensor, x: Tensor) -> Tensor:
    """Logits as they are, through roots whose slope at 0 is infinite."""
    nothing = (x - x.detach()).clamp_min(0).sqrt().flatten(1).sum(1, keepdim=True)
    return logits + torch.tensor([1.0, -1.0]) * nothing


@pytest.mark.parametrize("scale", [1e-6, 1.0, 30.0, 1e4, 1e6])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_multiplying_the_logits_by_a_constant_changes_no_figure(scale: float, norm: str) -> None:
    """A score moves by ε under L∞, by ε/√64 under L2: exactly the examples farther than that are robust."""
    epsilon = EPSILON if norm == "linf" else 8 * EPSILON
    found = evaluate(Changed(lambda logits, x: scale * logits), DATA, PGD(epsilon, norm=norm, steps=10))
    assert found.robust_accuracy == float((distances(DATA) > EPSILON).double().mean())
    assert found.clean_accuracy == 1.0 and found.zero_gradients == 0 and found.warnings == ()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("by_autoattack", [False, True])
def test_logits_that_are_not_finite_are_wrong_answers_that_are_counted(
    value: float, by_autoattack: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image within ε of .6 can be made bright; so no example brighter than .5 is robust."""
    monkeypatch.setattr(module, "SQUARE_QUERIES", 50)
    how = evaluate_by_autoattack if by_autoattack else evaluate
    found = how(Changed(at_bright(value)), DATA, PGD(EPSILON, steps=10))
    brightness = DATA.images(torch.arange(len(DATA)))[:, 0, 0, 0].double() / 255
    assert found.clean_accuracy == float((brightness <= 0.6).double().mean())
    assert found.robust_accuracy <= float((brightness < 0.5 - EPSILON).double().mean())
    assert found.non_finite_logits >= int((brightness > 0.6).sum())
    assert any("logits that are not finite" in text for text in found.warnings)


def test_a_network_of_nothing_but_nan_is_never_right() -> None:
    found = evaluate(Changed(lambda logits, x: logits * math.nan), DATA, PGD(EPSILON, steps=2))
    assert (found.clean_accuracy, found.robust_accuracy, found.non_finite_logits) == (0.0, 0.0, len(DATA))


@pytest.mark.parametrize(("noise", "warned"), [(0.0, False), (1e-4, False), (0.3, True)])
def test_a_model_that_draws_at_random_is_warned_of(noise: float, warned: bool) -> None:
    random = torch.Generator().manual_seed(0)
    model = Changed(lambda logits, x: logits * (1 + noise * torch.rand(len(x), 1, generator=random)))
    found = evaluate(model, DATA, PGD(EPSILON, steps=2))
    assert any("passes of the same images" in text for text in found.warnings) is warned


@pytest.mark.parametrize(
    "change",
    [
        lambda logits: logits + 1e4,
        lambda logits: torch.cat([logits, torch.full((len(logits), 1), -1e6)], 1),
    ],
    ids=["a large constant", "a masked class"],
)
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_large_logits_hide_no_randomness(change: Callable[[Tensor], Tensor], noise: float) -> None:
    random = torch.Generator().manual_seed(0)
    model = Changed(lambda logits, x: change(logits * (1 + noise * torch.rand(len(x), 1, generator=random))))
    assert bool(variation(model, DATA.images(torch.arange(len(DATA))) / 255).any()) == (noise > 0)


def test_a_model_that_looks_at_the_other_images_of_a_batch_is_warned_of() -> None:
    """Its own statistics in eval mode, too: an image's logits are others in another batch."""
    model = Changed(lambda logits, x: logits - logits.mean(0, keepdim=True))
    found = evaluate(model, DATA, PGD(EPSILON, steps=2))
    assert any("looks at the other images of a batch" in text for text in found.warnings)


def test_autoattack_says_so_too_and_its_form_for_random_networks_does_not() -> None:
    model = Changed(lambda logits, x: logits - logits.mean(0, keepdim=True))
    for version, told in (("standard", True), ("rand", False)):
        found = evaluate_by_autoattack(model, DATA, PGD(EPSILON), version=version, attacks=("apgd-ce",))
        assert any("looks at the other images of a batch" in text for text in found.warnings) is told


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_logits_of_another_precision_are_judged_in_float32(dtype: torch.dtype) -> None:
    """Square and AutoAttack, too, which compute in the type of the images."""
    model, other = Brightness(), Changed(lambda logits, x: logits.to(dtype))
    for judged in (evaluate_by_autoattack, partial(evaluate, samples=len(DATA))):
        one, two = (judged(each, DATA, PGD(EPSILON, steps=10)) for each in (model, other))
        assert one.robust_accuracy == two.robust_accuracy


def test_a_coin_in_each_pass_is_seen_and_transfer_says_it_too() -> None:
    random = torch.Generator().manual_seed(0)

    def tossed(logits: Tensor, x: Tensor) -> Tensor:
        return logits if torch.rand((), generator=random) < 0.5 else logits.flip(1)

    found = evaluate(Changed(tossed), DATA, PGD(EPSILON, steps=2))
    assert any("The model is random" in text for text in found.warnings)
    threat = PGD(EPSILON, steps=5)
    members = [
        Member(name, model, DATA, threat, "greys", "")
        for name, model in (("coin", Changed(tossed)), ("sound", Brightness()))
    ]
    assert [text[:25] for text in transfer(members, SETTINGS, seed=0).warnings] == ["coin: The model is random"]


@pytest.mark.parametrize(("step_size", "told"), [(0.01, True), (0.02, False), (None, False)])
def test_an_attack_that_cannot_cross_its_ball_is_told(step_size: float | None, told: bool) -> None:
    found = sparring.evaluate(Brightness(), DATA, epsilon=EPSILON, steps=5, step_size=step_size, restarts=1)
    texts = [text for text in found.warnings if "5 steps of 0.01 move an image by 0.05 at most, and ε is 0.1" in text]
    assert bool(texts) == told


def test_an_attack_that_moves_nothing_is_told() -> None:
    class Still(PGD):
        def initial(self, x: Tensor, generator: torch.Generator) -> Tensor:
            return torch.zeros_like(x)

        def step(self, delta: Tensor, gradient: Tensor, step_size: Tensor, state: dict[str, Tensor]) -> Tensor:
            return delta

    found = sparring.evaluate(Brightness(), DATA, attack=Still(EPSILON, steps=3))
    assert found.zero_gradients == len(DATA) and any("did not move them" in text for text in found.warnings)


@pytest.mark.parametrize("where", ["initial", "project", "nan"])
def test_an_attack_that_leaves_its_ball_gives_no_figure(where: str) -> None:
    class Leaving(PGD):
        def initial(self, x: Tensor, generator: torch.Generator) -> Tensor:
            return torch.full_like(x, 0.15) if where == "initial" else super().initial(x, generator)

        def project(self, delta: Tensor, x: Tensor, radius: float | Tensor) -> Tensor:
            return delta * math.nan if where == "nan" else delta

    with pytest.raises(SparringError, match=r"Leaving: it made a perturbation of norm .* in a ball of 0\.1"):
        sparring.evaluate(Brightness(), DATA, attack=Leaving(EPSILON, steps=20, step_size=0.05))


@pytest.mark.parametrize("how", [{"attack": "pgd", "steps": 5}, {"attack": "autoattack"}])
def test_a_model_that_changes_its_input_is_judged_as_one_that_does_not(how: dict[str, Any]) -> None:
    """In place, the image that the next pass sees would be another one."""

    class InPlace(Brightness):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.mul_(0.9).add_(0.05))

    class Apart(Brightness):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x * 0.9 + 0.05)

    one, other = (sparring.evaluate(model, DATA, epsilon=EPSILON, **how) for model in (InPlace(), Apart()))
    assert (one.clean_accuracy, one.robust_accuracy) == (other.clean_accuracy, other.robust_accuracy)


def test_autoattacks_warnings_belong_to_the_figure_also_where_nobody_wants_logs() -> None:
    random = torch.Generator().manual_seed(0)
    model = Changed(lambda logits, x: logits + 0.05 * torch.randn(logits.shape, generator=random))
    logging.disable(logging.WARNING)
    try:
        found = evaluate_by_autoattack(model, DATA, PGD(EPSILON), attacks=("apgd-ce",))
    finally:
        logging.disable(logging.NOTSET)
    assert any("randomized" in text for text in found.warnings)


@pytest.mark.parametrize(
    "change", [lambda logits, x: logits.detach(), lambda logits, x: F.one_hot(logits.argmax(1), 2)]
)
def test_logits_that_cannot_be_differentiated_are_refused(change: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(UsageError, match="its logits have no gradient with respect to the images"):
        evaluate(Changed(lambda logits, x: change(logits, x).float()), DATA, PGD(EPSILON, steps=2))


def test_robust_examples_whose_attack_had_no_gradient_are_counted() -> None:
    found = evaluate(Shattered(), DATA, PGD(EPSILON, steps=3))
    assert found.zero_gradients == round(found.robust_accuracy * len(DATA)) > 0
    assert any(f"{found.zero_gradients} of {found.zero_gradients} robust examples" in each for each in found.warnings)


def test_gradients_that_are_not_finite_are_counted_and_the_rest_is_attacked() -> None:
    found = evaluate(Changed(rooted), DATA, PGD(EPSILON, steps=10, start="zero"))
    assert found.non_finite_gradients == len(DATA)
    assert any("entries that are not finite" in text for text in found.warnings)


@pytest.mark.parametrize("share", [lambda logits, x: (20 * logits).softmax(1), lambda logits, x: logits + 0.5])
def test_probabilities_instead_of_logits_are_told(share: Callable[[Tensor, Tensor], Tensor]) -> None:
    found = sparring.evaluate(Changed(share), DATA, epsilon=EPSILON, steps=2, restarts=1)
    assert any("returns probabilities" in text for text in found.warnings)


@pytest.mark.parametrize(("scale", "faint"), [(1.0, False), (0.5, False), (0.02, True), (1e-6, True)])
def test_nearly_equal_logits_of_a_model_that_is_right_are_told(scale: float, faint: bool) -> None:
    """Ten classes by the brightest of ten pixels, with a margin of 8 at scale 1."""
    images = torch.zeros(30, 1, 8, 8, dtype=torch.uint8)
    labels = torch.arange(30) % 10
    images.view(30, -1)[torch.arange(30), labels] = 255

    class Brightest(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            """Logits [N, 10]."""
            return scale * 8 * x.flatten(1)[:, :10]

    found = evaluate(Brightest(), ArrayDataset(images, labels, 10, "pixels"), PGD(EPSILON, steps=2))
    assert found.clean_accuracy == 1.0
    assert any("logits are nearly equal" in text for text in found.warnings) == faint


def test_a_sound_model_has_no_warning() -> None:
    found = sparring.evaluate(Brightness(), DATA, epsilon=EPSILON, steps=5, restarts=2)
    assert found.warnings == () and found.as_dict()["warnings"] == []


def test_curves_and_transfer_say_the_same() -> None:
    found = curves(Changed(lambda logits, x: logits.softmax(1)), DATA, PGD(EPSILON), SETTINGS, seed=0)
    assert any("returns probabilities" in text for text in found.warnings)
    members = [
        Member(name, model, DATA, PGD(EPSILON, steps=5), "greys", "")
        for name, model in (("sound", Brightness()), ("flat", Shattered()), ("broken", Changed(at_bright(math.nan))))
    ]
    matrix = transfer(members, SETTINGS, seed=0)
    assert [text.split(":")[0] for text in matrix.warnings] == ["flat", "broken", "broken"]
    assert "a gradient of exactly zero" in matrix.warnings[0] and "logits that are not finite" in matrix.warnings[1]


def test_corruptions_say_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dark:
        key = "dark"

        def __init__(self, seed: int) -> None:
            pass

        def __call__(self, name: str, severity: int, indices: Tensor, images: Tensor, labels: Tensor) -> Any:
            return 0 * images, labels

    monkeypatch.setattr("sparring.evaluation.corruptions.Generated", Dark)
    monkeypatch.setattr("sparring.evaluation.corruptions.require_bytes", lambda data, what: None)  # DATA are floats
    model = Changed(lambda logits, x: logits / x.flatten(1).sum(1, keepdim=True).sign())
    found = corruptions(model, DATA, "greys", None, samples=None, batch_size=16, seed=0)
    assert found.corrupted_accuracy == 0.0 and found.clean_accuracy == 1.0
    assert found.warnings[0].startswith("40 of 40 examples (100.0 %) had logits that are not finite")


def test_of_several_attacks_the_highest_counts_are_told() -> None:
    one, two = Findings(50, 40, 1, 2, 3, False), Findings(50, 30, 4, 0, 3, True)
    assert worst([one, two]) == Findings(50, 40, 4, 2, 3, True, False)
    assert [text.split()[0] for text in warnings_of(worst([one, two]))] == ["3", "The", "4", "2"]


class Root(nn.Module):
    """20 pixels a class, through a root: the slope at black pixels is infinite."""

    def forward(self, x: Tensor) -> Tensor:
        """x: float32 [N, 1, 8, 8]; logits [N, 3]."""
        return x.sqrt().flatten(1)[:, :60].view(-1, 3, 20).sum(2)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_infinite_slope_spoils_no_image(norm: str) -> None:
    """The margin is 20·√(200/255) = 17.7; in the ball it moves by at most 6.2 under L2: all are robust."""
    labels = torch.arange(30) % 3
    images = torch.zeros(30, 1, 8, 8, dtype=torch.uint8)
    for row, label in zip(images.view(30, -1), labels.tolist(), strict=True):
        row[20 * label : 20 * label + 20] = 200
    found = evaluate(Root(), ArrayDataset(images, labels, 3, "bars"), PGD(0.3 if norm == "l2" else 0.01, norm=norm))
    assert found.robust_accuracy == 1.0 and found.non_finite_gradients == 30
