"""Margins against those that are known: of linear networks they have a closed form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks import PGD
from sparring.config import DataSettings
from sparring.data import ArrayDataset, load
from sparring.evaluation.margins import Margins, drawn_back, margins, misclassified, sizes_of, smallest
from sparring.evaluation.robustness import evaluate
from tests.support.digits import half_trained, training_digits
from tests.support.linear import SHAPE, exact, examples, linear


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("classes", [2, 4])
def test_the_margin_of_a_linear_network_is_found_and_never_undercut(norm: str, classes: int) -> None:
    model = linear(classes)
    x, labels = examples(model)
    known = exact(model, x, labels, norm)
    found = smallest(model, x, labels, norm, classes, steps=50, seed=0)
    assert known.max() < 0.4, "the box cannot bind"
    assert (found >= known * (1 - 1e-3) - 1e-6).all(), "what is smaller than the margin breaks nothing"
    assert (found <= known * 1.02 + 1e-6).all()


def test_what_is_misclassified_already_has_no_margin() -> None:
    model = linear(3)
    x, labels = examples(model)
    assert (smallest(model, x, (labels + 1) % 3, "linf", 3, steps=5, seed=0) == 0).all()


def test_an_image_is_drawn_back_to_the_boundary_and_stays_misclassified() -> None:
    model = linear(2)
    x, labels = examples(model)
    direction = (model[1].weight[1 - labels] - model[1].weight[labels]).detach().sign().view(x.shape)  # type: ignore[index]
    far = (x + 0.5 * direction).clamp(0, 1)
    wrong = misclassified(model, far, labels)
    near = drawn_back(model, x, far, labels)
    assert (misclassified(model, near, labels) == wrong).all()
    assert (sizes_of(near - x, "linf")[wrong] <= sizes_of(far - x, "linf")[wrong]).all()


def test_a_network_that_nothing_breaks_has_no_finite_margin() -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 0 * x.flatten(1)[:, :3] + torch.tensor([1.0, 0.0, 0.0])

    sizes = smallest(Constant(), torch.full((4, *SHAPE), 0.5), torch.zeros(4, dtype=torch.int64), "l2", 3, 5, 0)
    assert sizes.isinf().all()
    found = Margins("l2", {"fab": sizes}, "all", 0.0).as_dict(0.1)
    assert found["not_found"] == 4 and found["quantiles"]["0.5"] is None and found["share_above_epsilon"] == 1.0


def test_no_more_examples_stay_above_an_epsilon_than_pgd_leaves() -> None:
    """Both are upper bounds of the robust accuracy; on a small network they agree within two of twenty examples."""
    model, test = half_trained(training_digits()), load(DataSettings(name="digits"), "test")
    found = margins(model, test, "linf", samples=20, steps={"fab": 15}, batch_size=15)
    assert len(found.sizes) == 20 and found.rule == "drawn from 360 with seed 0, each class in its share"
    for epsilon in (0.05, 0.15):
        share, (low, high) = found.share_above(epsilon)
        pgd = evaluate(model, test, PGD(epsilon, steps=40, restarts=2), samples=20).robust_accuracy
        assert abs(share - pgd) < 0.11 and low < share < high


def test_of_two_attacks_the_smaller_size_counts_and_both_are_told() -> None:
    model, test = half_trained(training_digits()), load(DataSettings(name="digits"), "test")
    found = margins(model, test, "l2", attacks=("fab", "cw"), samples=10, steps={"fab": 10, "cw": 40}, batch_size=6)
    assert torch.equal(found.sizes, torch.minimum(found.by_attack["fab"], found.by_attack["cw"]))
    told = found.as_dict(None)
    assert told["attack"] == "FAB, 100 iterations and Carlini-Wagner, 9 searches of 1000 steps, l2"
    assert set(told["by_attack"]) == {"fab", "cw"} and len(told["sizes"]) == 10


def test_sizes_that_a_masked_gradient_made_too_large_are_warned_of() -> None:
    """A linear network that shows a gradient of the other sign: FAB finds next to nothing within the ball."""

    class Flipped(nn.Module):
        def __init__(self, sound: nn.Module) -> None:
            super().__init__()
            self.sound = sound

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.sound((2 * x).detach() - x)
            return logits

    model = linear(4)
    x, labels = examples(model)
    data = ArrayDataset((255 * x).round().byte(), model((255 * x).round() / 255).argmax(1), 4, "random")
    epsilon = 2 * float(exact(model, x, labels, "linf").max())
    for judged, told in ((model, False), (Flipped(model), True)):
        found = margins(judged, data, "linf", epsilon=epsilon, steps={"fab": 5})
        assert any("gradient is masked" in warning for warning in found.warnings) == told
        assert found.as_dict(epsilon)["warnings"] == list(found.warnings)


class Probabilities(nn.Module):
    """The linear network's logits times 60, as probabilities: float32 rounds them to 0 and 1, their gradients to 0."""

    def __init__(self, sound: nn.Module) -> None:
        super().__init__()
        self.sound = sound

    def forward(self, x: Tensor) -> Tensor:
        probabilities: Tensor = (60 * self.sound(x)).softmax(1)
        return probabilities


class Rounded(Probabilities):
    """The images are rounded to five levels: no gradient at all."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.sound((4 * x).round() / 4)
        return logits


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize(
    ("network", "told"),
    [
        (Probabilities, ["returns probabilities"]),
        (Rounded, ["20 of 20 robust examples (100.0 %) met a gradient of exactly zero"]),
        (None, []),
    ],
)
def test_what_makes_sizes_too_large_is_told_under_a_norm_without_an_epsilon(
    network: type[Probabilities] | None, told: list[str], norm: str
) -> None:
    """The rounded network has the margins of a linear one, as steps: none of them is found."""
    model = linear(4)
    x, _ = examples(model)
    images = (255 * x).round().byte()
    judged = model if network is None else network(model)
    data = ArrayDataset(images, judged(images / 255).argmax(1), 4, "random")
    found = margins(judged, data, norm, steps={"fab": 5})
    assert all(any(text in warning for warning in found.warnings) for text in told)
    assert bool(found.warnings) == bool(told)
    if network is Rounded:
        assert found.sizes.isinf().all() and (norm == "l1" or any(each.startswith("Within") for each in found.warnings))


def test_a_random_network_is_told_beside_its_margins() -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :3] + torch.randn(len(x), 3)

    data = ArrayDataset(torch.zeros(8, *SHAPE, dtype=torch.uint8), torch.zeros(8).long(), 3, "random")
    with torch.random.fork_rng():
        assert any("The model is random" in each for each in margins(Noisy(), data, "l2", steps={"fab": 2}).warnings)
