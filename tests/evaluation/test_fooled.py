"""Networks that fool the cross-entropy, whose robust accuracy is known to be 0; sound ones are not accused."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

import sparring
from sparring.attacks import CROSS_ENTROPY, PGD, AttackLoss
from sparring.data import ArrayDataset
from sparring.evaluation.fooled import _balanced, fooled
from sparring.evaluation.robustness import evaluate, evaluate_by_autoattack

EPSILON = 0.1
BRIGHTNESS = 140 / 255


class Decoys(nn.Module):
    """Class 0 where an image is bright, else class 1: an image of 140/255 is lost 0.05 below.

    Eight decoys rise with the brightness and stop before they could win. Together they outweigh class 1 in the
    cross-entropy, which pushes the brightness up.
    """

    def __init__(self, *, slope: float = 60.0) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, 10]."""
        brightness = x.flatten(1).mean(1)
        own = 20 * (brightness - 0.5)
        decoy = (self.slope * (brightness - BRIGHTNESS) - 1.2).clamp_max(-0.5)
        return torch.stack([own, -own, *[decoy] * 8], 1)


def bright(count: int) -> ArrayDataset:
    return ArrayDataset(torch.full((count, 1, 8, 8), 140, dtype=torch.uint8), torch.zeros(count).long(), 10, "bright")


def test_a_figure_that_another_loss_proves_wrong_is_warned_of() -> None:
    found = sparring.evaluate(Decoys(), bright(20), epsilon=EPSILON)
    assert found.robust_accuracy == 1.0
    assert any(
        "Another loss" in text and re.search(r"breaks (1[5-9]|20) of 20 examples that survived", text)
        for text in found.warnings
    )
    sound = sparring.evaluate(Decoys(slope=0.0), bright(20), epsilon=EPSILON)
    assert sound.robust_accuracy == 0.0 and not any("Another loss" in text for text in sound.warnings)


@pytest.mark.parametrize(
    ("attack", "survivors", "told"),
    [
        (PGD(EPSILON, steps=10), 300, r"breaks 1[0-2]\d of 128"),
        (PGD(0.03, steps=10), 300, None),
        (PGD(0.0, steps=10), 300, None),
        (PGD(EPSILON, steps=9), 300, "^A step along the gradient"),
        (PGD(EPSILON, steps=10, loss="kl"), 300, r"breaks 1[0-2]\d of 128"),
        (PGD(0.03, steps=10, loss="kl"), 300, None),
        (PGD(EPSILON, steps=10), 4, None),
        (PGD(EPSILON, steps=10), 0, None),
    ],
    ids=[
        "fooled",
        "a ball within which nothing is lost",
        "no ball",
        "few steps",
        "no cross-entropy",
        "no cross-entropy, and nothing is lost",
        "few survivors",
        "none",
    ],
)
def test_it_speaks_of_a_cross_entropy_that_was_fooled(attack: PGD, survivors: int, told: str | None) -> None:
    found = fooled(Decoys(), bright(300), attack, torch.arange(survivors), seed=0)
    assert bool(found) == (told is not None) and (told is None or re.search(told, found[0]))


class Clamped(nn.Module):
    """Class 0 while the mean of the upper half, which the network clamps to [0.05, 0.95], is below 0.085.

    The upper half is black: its pixels have a gradient only where a start has moved them above 0.05, which it does to
    a quarter of them. Those come to 0.1, the others count as 0.05: 0.0625 in the mean. With all of them at 0.1 the
    class is lost. A part of the logits comes from the lower half, so that the gradient is not wholly zero.
    """

    def __init__(self, *, low: float = 0.05, unseen: bool = False) -> None:
        super().__init__()
        self.low, self.unseen = low, unseen

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, 2]."""
        upper, lower = (
            half.flatten(1).mean(1) for half in (x.clamp(self.low, 1 - self.low)[..., :4, :], x[..., 4:, :])
        )
        upper = 0.0625 + 0 * upper if self.unseen else upper
        margin = 100 * (upper - 0.085) + 0.01 * (lower - 0.5)
        return torch.stack([-margin, margin], 1)


def half_black(count: int) -> ArrayDataset:
    images = torch.full((count, 1, 8, 8), 128, dtype=torch.uint8)
    images[..., :4, :] = 0
    return ArrayDataset(images, torch.zeros(count).long(), 2, "half black")


def test_pixels_that_the_network_clamps_and_no_step_moves_are_told() -> None:
    found = sparring.evaluate(Clamped(), half_black(20), epsilon=EPSILON, restarts=1)
    assert found.robust_accuracy == 1.0 and found.zero_gradients == 0
    (text,) = [text for text in found.warnings if text.startswith("PGD that also moves pixels")]
    assert "(50 % of them) breaks 20 of 20 examples that survived" in text and "too high by at least 100 %" in text


@pytest.mark.parametrize(("network", "robust"), [(Clamped(low=0.0), 0.0), (Clamped(unseen=True), 1.0)])
def test_pixels_without_a_gradient_that_matter_to_nobody_are_not_told(network: nn.Module, robust: float) -> None:
    """The network without the clamp loses all; one that does not see its upper half loses none, whoever moves it."""
    found = sparring.evaluate(network, half_black(20), epsilon=EPSILON, restarts=1)
    assert found.robust_accuracy == robust and not any("examples that survived" in text for text in found.warnings)


def test_a_complete_autoattack_is_looked_at_for_such_pixels_alone() -> None:
    survivors, pgd = torch.arange(20), PGD(EPSILON)
    (text,) = fooled(Clamped(), half_black(20), pgd, survivors, seed=0, complete=True)
    assert text.startswith("PGD that also moves pixels")
    assert fooled(Decoys(), bright(20), pgd, survivors, seed=0, complete=True) == []


DOWNHILL = AttackLoss(lambda logits, labels: -nn.functional.cross_entropy(logits, labels, reduction="none"))


@dataclass(frozen=True, kw_only=True)
class Downhill(PGD):
    """A slip of the sign in its own step."""

    def step(self, delta: Tensor, gradient: Tensor, step_size: Tensor, state: dict[str, Tensor]) -> Tensor:
        """Down instead of up."""
        return super().step(delta, -gradient, step_size, state)


@pytest.mark.parametrize("steps", [1, 5, 20])
@pytest.mark.parametrize(
    "attack", [PGD(EPSILON, loss=DOWNHILL), Downhill(EPSILON), PGD(EPSILON)], ids=["loss", "step", "sound"]
)
def test_a_slip_of_the_sign_in_an_attack_of_ones_own_is_told(attack: PGD, steps: int) -> None:
    """The sound network loses every image 0.05 below it: what survives has not been attacked."""
    found = sparring.evaluate(Decoys(slope=0.0), bright(20), replace(attack, steps=steps))
    sound = type(attack) is PGD and attack.loss is CROSS_ENTROPY
    assert (found.robust_accuracy == 0.0) == sound
    told = [text for text in found.warnings if "breaks 20 of 20 examples that survived" in text]
    assert bool(told) != sound
    assert ("loss of its own" in found.attack) == (attack.loss is DOWNHILL)


def test_a_share_that_sound_networks_lose_too_is_passed_over() -> None:
    """Of 100 survivors some are so bright that nothing breaks them."""
    for weak, warned in ((5, False), (6, True)):
        images = torch.cat([bright(weak).images(torch.arange(weak)), torch.full((100 - weak, 1, 8, 8), 250).byte()])
        data = ArrayDataset(images, torch.zeros(100).long(), 10, "bright")
        found = fooled(Decoys(), data, replace(PGD(EPSILON), steps=10), torch.arange(100), seed=0)
        assert bool(found) == warned


class Flipped(Decoys):
    """The sound network, but whoever asks for its gradient gets that of another sign, or of nothing."""

    def __init__(self, factor: float) -> None:
        super().__init__(slope=0.0)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, 10]."""
        shown = self.factor * x
        return super().forward(shown + (x - shown).detach())


class Detached(nn.Module):
    """The sound network without its gradient, and beside it one of stripes, which decide nothing."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, 10]."""
        stripes = x[..., ::2].flatten(1).mean(1) - x[..., 1::2].flatten(1).mean(1)
        logits: Tensor = Decoys(slope=0.0)(x).detach()
        return logits + 1e-3 * torch.stack([stripes, *[-stripes] * 9], 1)


def test_a_search_without_gradients_that_breaks_more_is_told() -> None:
    found = sparring.evaluate(Detached(), bright(20), epsilon=EPSILON, steps=10)
    assert found.robust_accuracy == 1.0
    (text,) = [text for text in found.warnings if text.startswith("Square")]
    assert int(text.split(" breaks ")[1].split()[0]) >= 10 and " of 20 examples that survived" in text


@pytest.mark.parametrize(("factor", "told"), [(-1.0, True), (1e-9, False), (0.0, False), (1.0, False)])
def test_a_gradient_that_leads_nowhere_is_told_and_a_small_one_or_none_is_not(factor: float, told: bool) -> None:
    """A gradient of zero has a warning of its own; Square tells both."""
    found = sparring.evaluate(Flipped(factor), bright(20), epsilon=EPSILON, steps=10)
    assert found.robust_accuracy == (1.0 if factor <= 0 else 0.0)
    texts = [text for text in found.warnings if text.startswith("A step along")]
    assert [text[:87] for text in texts] == [
        "A step along the gradient raises the margin more than each of 10 random ones on only 0 "
    ] * told
    assert (found.zero_gradients > 0) == (factor == 0)


def test_attacks_that_aim_at_a_class_are_looked_at_too() -> None:
    found = evaluate(Flipped(-1.0), bright(20), PGD(EPSILON, steps=10), targets=2)
    assert found.robust_accuracy == 1.0
    assert {"A step", "Square"} <= {text[:6] for text in found.warnings}


@pytest.mark.parametrize("attacks", [("apgd-ce",), ("apgd-ce", "square")])
def test_an_ensemble_that_does_not_search_without_gradients_is_looked_at(attacks: tuple[str, ...]) -> None:
    """Square breaks them itself."""
    found = evaluate_by_autoattack(Flipped(-1.0), bright(20), PGD(EPSILON), attacks=attacks)
    looked = [text for text in found.warnings if "examples that survived" in text]
    if attacks == ("apgd-ce",):
        assert found.robust_accuracy > 0.9 and len(looked) == 2
    else:
        assert found.robust_accuracy == 0.0 and not looked


class Rising(nn.Module):
    """A rising function of each logit of a linear network: the same classes."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.weights = torch.randn(3, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, 3]."""
        return self.function(x.flatten(1) @ self.weights.T)


def test_the_balanced_direction_is_that_of_the_network_below_any_rising_function() -> None:
    """Of a linear network, in float64: the difference of two rows of weights, each of length one."""
    x = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    functions: list[Callable[[Tensor], Tensor]] = [lambda z: z, lambda z: (z / 4).exp(), lambda z: z**3, torch.tanh]
    for function in functions:
        model = Rising(function)
        logits: Tensor = model(x)
        rival = logits.scatter(1, y[:, None], -torch.inf).argmax(1)
        rows = model.weights / model.weights.norm(dim=1, keepdim=True)
        torch.testing.assert_close(_balanced(model, x, y).flatten(1), (rows[rival] - rows[y]).float())


def test_survivors_of_all_classes_are_looked_at_where_data_are_sorted() -> None:
    """The first 300 images survive everything; only the last 60 are lost to another loss."""
    images = torch.cat([torch.full((300, 1, 8, 8), 250).byte(), bright(60).images(torch.arange(60))])
    data = ArrayDataset(images, torch.zeros(360).long(), 10, "sorted")
    (first, *_) = fooled(Decoys(), data, PGD(EPSILON, steps=10), torch.arange(360), seed=0)
    assert first.startswith("Another loss")


class Shaken(Decoys):
    """Logits with noise that is drawn anew in every pass."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, 10]."""
        logits = super().forward(x)
        return logits + 0.1 * torch.randn_like(logits)


def test_an_attack_on_networks_that_draw_at_random_is_looked_at_where_the_network_does_not() -> None:
    pgd, survivors = PGD(EPSILON, steps=10), torch.arange(20)
    told = fooled(Decoys(), bright(20), pgd, survivors, seed=0, at_random=True)
    assert told[0].startswith("The model gives the same logits in every pass") and told[1].startswith("Another loss")
    assert fooled(Shaken(), bright(20), pgd, survivors, seed=0, at_random=True) == []
