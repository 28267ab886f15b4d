"""A verdict is that of trying every activation pattern; a counterexample is one for the network itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sparring.errors import SparringError
from sparring.evaluation import verification
from sparring.evaluation.relaxation import Bounds, box_of, by_crown
from sparring.evaluation.relu_network import relu_network
from sparring.evaluation.verification import Image, Prover, inside, is_broken, require_contains
from tests.support.relu import least_margin_by_patterns, random_network

pytest.importorskip("highspy")


def image_of(seed: int, pixels: int) -> Image:
    return np.random.default_rng(seed).uniform(0, 1, pixels).astype(np.float32)


def useless(network: Any, box: Any, bounds: Any, rows: Any, **_: Any) -> Any:
    """Bounds of margins that prove nothing."""
    return np.full(rows.shape[0], -1e9)


@pytest.mark.parametrize("seed", range(6))
def test_verdicts_are_those_of_all_patterns_with_and_without_the_bounds(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_network(seed, (2, 3, 2, 3))
    network, image = relu_network(model, (1, 1, 2)), image_of(seed, 2)
    label = int(network.logits(image[None].astype(float)).argmax())
    for epsilon in (0.03, 0.3):
        box = box_of(image.astype(float), epsilon)
        others = [each for each in range(3) if each != label]
        truth = min(least_margin_by_patterns(model, *box, label, other) for other in others)
        assert abs(truth) > 1e-3, "else neither answer is wrong"
        proofs = [Prover(network, epsilon, 60.0)(image, label)]
        with monkeypatch.context() as patched:
            patched.setattr(verification, "lower_bounds", useless)
            patched.setattr(verification, "above_in_all_cases", lambda *_: False)
            proofs.append(Prover(network, epsilon, 60.0)(image, label))
        assert proofs[1].by == "mip"
        for proof in proofs:
            assert proof.verdict == ("verified" if truth > 0 else "broken")
            assert (proof.image is None) == (truth > 0)
            if proof.image is not None:
                assert (proof.image >= box.lower).all() and (proof.image <= box.upper).all()
                for dtype in (torch.float32, torch.float64):
                    logits = model.to(dtype)(torch.from_numpy(proof.image).to(dtype).view(1, 1, 1, 2))
                    assert int(logits.argmax()) != label
                model.float()


def test_without_time_an_example_is_timed_out_and_neither_verified_nor_broken() -> None:
    network, image = relu_network(random_network(1, (16, 30, 30, 2)), (1, 4, 4)), image_of(1, 16)
    label = int(network.logits(image[None].astype(float)).argmax())
    assert Prover(network, 0.2, 0.0)(image, label)[:2] == ("timed out", "")


def test_a_margin_of_zero_is_undecided() -> None:
    alike = nn.Linear(3, 2)
    with torch.no_grad():
        alike.weight.fill_(0.5)
        alike.bias.fill_(0.1)
    network = relu_network(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), alike), (1, 2, 2))
    assert Prover(network, 0.1, 60.0)(image_of(0, 4), 0)[:2] == ("undecided", "")


def test_a_bound_that_an_image_of_the_ball_leaves_ends_the_verification(monkeypatch: pytest.MonkeyPatch) -> None:
    network, image = relu_network(random_network(0, (9, 8, 6, 3)), (1, 3, 3)), image_of(0, 9)
    box = box_of(image.astype(float), 0.05)
    bounds = by_crown(network, box)
    require_contains(network, box, bounds, [image])
    value = network.preactivations(image[None].astype(float))[1][0]
    wrong = [bounds[0], Bounds(bounds[1].lower, np.minimum(bounds[1].upper, value - 1e-3)), *bounds[2:]]
    with pytest.raises(SparringError, match=r"a bound of affine map 2 is wrong by 0\.001"):
        require_contains(network, box, wrong, [image])
    require_contains(network, box, wrong, [np.ones(9, dtype=np.float32)])  # of another ball
    monkeypatch.setattr(verification, "by_crown", lambda *_: wrong)
    with pytest.raises(SparringError, match="Nothing is verified by such bounds"):
        Prover(network, 0.05, 60.0)(image, 0)


@pytest.mark.parametrize("epsilon", [0.1, 8 / 255, 1e-9, 0.3])
def test_an_image_in_float32_is_put_inside_the_ball_exactly(epsilon: float) -> None:
    image = np.concatenate([image_of(0, 1000), np.zeros(5, dtype=np.float32), np.ones(5, dtype=np.float32)])
    box = box_of(image.astype(float), epsilon)
    for target in (box.lower, box.upper, image + np.float32(2), image - np.float32(2)):
        found = inside(np.asarray(target), box)
        assert found.dtype == np.float32
        assert (found.astype(float) >= box.lower).all() and (found.astype(float) <= box.upper).all()
        assert (abs(found.astype(float) - image.astype(float)) <= epsilon).all()


def test_an_image_breaks_only_if_another_logit_is_higher() -> None:
    network = relu_network(nn.Sequential(nn.Flatten(), nn.Linear(2, 2)), (1, 1, 2))
    image = image_of(0, 2)
    label = int(network.logits(image[None].astype(float)).argmax())
    assert is_broken(network, image, 1 - label) and not is_broken(network, image, label)
