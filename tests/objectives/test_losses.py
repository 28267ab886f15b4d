"""Losses against a float64 transcription in numpy and its finite differences."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from sparring.objectives import jsd, kl_divergence, mart, pgd_at, trades, weighted_mean
from tests.support.losses import (
    BETA,
    Array,
    Labels,
    cross_entropy,
    expected_jsd,
    expected_kl,
    expected_mart,
    expected_trades,
    finite_difference,
    log_softmax,
)

Ours = Callable[..., Tensor]
Expected = Callable[..., float | Array]

EXAMPLES, CLASSES = 5, 4
SEEDS = range(4)
SCALES = (1.0, 5.0, 10.0, 30.0)  # from 10 on, the clamp of AugMix and the constants of MART bite


def kl_of_logits(clean: Tensor, adv: Tensor, _labels: Tensor) -> Tensor:
    return kl_divergence(adv, clean.softmax(1))


def trades_at_beta(clean: Tensor, adv: Tensor, labels: Tensor) -> Tensor:
    return trades(clean, adv, labels, BETA)


def mart_at_beta(clean: Tensor, adv: Tensor, labels: Tensor) -> Tensor:
    return mart(clean, adv, labels, BETA)


CASES: dict[str, tuple[Ours, Expected, int]] = {  # ours, its transcription, how many sets of logits
    "trades": (trades_at_beta, expected_trades, 2),
    "mart": (mart_at_beta, expected_mart, 2),
    "jsd": (jsd, expected_jsd, 3),
    "kl": (kl_of_logits, expected_kl, 2),
}
every_loss = pytest.mark.parametrize(("ours", "expected", "inputs"), CASES.values(), ids=CASES)


def sample(inputs: int, scale: float, seed: int) -> tuple[list[Array], Labels]:
    """Sets of logits [5, 4] in ±[0.7, 1] · scale, none equal (the runner-up of MART would be a kink), and labels."""
    random = np.random.default_rng(seed)
    shape = (inputs, EXAMPLES, CLASSES)
    logits = scale * random.choice([-1.0, 1.0], size=shape) * random.uniform(0.7, 1.0, size=shape)
    return list(logits), random.integers(0, CLASSES, EXAMPLES)


def tensors(logits: Sequence[Array], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [torch.tensor(values, dtype=dtype, requires_grad=True) for values in logits]


@every_loss
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("seed", SEEDS)
def test_values_are_those_of_the_transcription(
    ours: Ours, expected: Expected, inputs: int, scale: float, seed: int
) -> None:
    logits, labels = sample(inputs, scale, seed)
    value = ours(*tensors(logits), torch.tensor(labels))
    assert value.dtype == torch.float64
    np.testing.assert_allclose(value.detach().numpy(), expected(labels, *logits), rtol=1e-11, atol=1e-11)


@every_loss
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("seed", SEEDS)
def test_gradients_through_every_input_are_those_of_finite_differences(
    ours: Ours, expected: Expected, inputs: int, scale: float, seed: int
) -> None:
    logits, labels = sample(inputs, scale, seed)
    given = tensors(logits)
    gradients = torch.autograd.grad(ours(*given, torch.tensor(labels)).sum(), given)
    for at, gradient in zip(logits, gradients, strict=True):
        numeric = finite_difference(lambda: float(np.sum(expected(labels, *logits))), at)
        np.testing.assert_allclose(gradient.numpy(), numeric, rtol=1e-6, atol=1e-6)


@every_loss
@pytest.mark.parametrize("scale", [30.0, 500.0])  # 500: probabilities underflow to exactly 0
def test_float32_stays_finite_at_extreme_logits(ours: Ours, expected: Expected, inputs: int, scale: float) -> None:
    logits, labels = sample(inputs, scale, seed=0)
    given = tensors(logits, torch.float32)
    assert scale < 500 or any((values.softmax(1) == 0).any() for values in given)
    value = ours(*given, torch.tensor(labels))
    assert value.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(value.sum(), given))


@every_loss
def test_half_precision_logits_are_computed_in_float32(ours: Ours, expected: Expected, inputs: int) -> None:
    logits, labels = sample(inputs, 5.0, seed=0)
    halves = tensors(logits, torch.bfloat16)
    if ours is kl_of_logits:
        value = kl_divergence(halves[1], halves[0].float().softmax(1))
    else:
        value = ours(*halves, torch.tensor(labels))
    assert value.dtype == torch.float32
    rounded = [half.detach().double().numpy() for half in halves]
    np.testing.assert_allclose(value.detach().numpy(), expected(labels, *rounded), rtol=1e-5)


def test_a_probability_of_zero_adds_nothing_to_the_kl() -> None:
    adv = torch.tensor([[0.3, -0.2, 1.0]], dtype=torch.float64, requires_grad=True)
    p = torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64)
    value = kl_divergence(adv, p)
    assert value.item() == pytest.approx(-log_softmax(adv.detach().numpy())[0, 1], abs=1e-12)
    (gradient,) = torch.autograd.grad(value.sum(), adv)
    torch.testing.assert_close(gradient, adv.detach().softmax(1) - p)


def test_kl_of_equal_distributions_is_zero_and_of_each_example() -> None:
    logits = tensors(sample(1, 5.0, seed=0)[0])[0].detach()
    torch.testing.assert_close(kl_divergence(logits, logits.softmax(1)), torch.zeros(EXAMPLES, dtype=torch.float64))


def test_the_margin_of_mart_is_to_the_runner_up_only_where_the_label_leads() -> None:
    logits = torch.tensor([[0.6, 0.3, 0.1]], dtype=torch.float64).log()
    right = mart(logits, logits, torch.tensor([0]), 0.0).item()
    wrong = mart(logits, logits, torch.tensor([1]), 0.0).item()
    assert right == pytest.approx(-np.log(0.6) - np.log(0.7001), abs=1e-9)
    assert wrong == pytest.approx(-np.log(0.3) - np.log(0.4001), abs=1e-9)


def test_the_weight_of_the_jsd_scales_the_divergence_alone() -> None:
    logits, labels = sample(3, 5.0, seed=2)
    clean, view1, view2 = tensors(logits)
    none, one, twelve = (jsd(clean, view1, view2, torch.tensor(labels), at).item() for at in (0.0, 1.0, 12.0))
    assert none == pytest.approx(cross_entropy(logits[0], labels), abs=1e-12)
    assert twelve - none == pytest.approx(12 * (one - none), abs=1e-11)
    assert one > none


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_label_smoothing_spreads_its_share_over_all_classes(smoothing: float) -> None:
    logits, labels = sample(1, 5.0, seed=1)
    target = np.full((EXAMPLES, CLASSES), smoothing / CLASSES)
    target[np.arange(EXAMPLES), labels] += 1 - smoothing
    value = pgd_at(torch.tensor(logits[0]), torch.tensor(labels), label_smoothing=smoothing)
    assert value.item() == pytest.approx(-(target * log_softmax(logits[0])).sum() / EXAMPLES, abs=1e-12)


def test_trades_smooths_the_labels_of_its_clean_term_alone() -> None:
    logits, labels = sample(2, 5.0, seed=1)
    clean, adv = (log_softmax(each) for each in logits)
    target = np.full((EXAMPLES, CLASSES), 0.1 / CLASSES)
    target[np.arange(EXAMPLES), labels] += 0.9
    divergence = (np.exp(clean) * (clean - adv)).sum(1).mean()
    expected = -(target * clean).sum() / EXAMPLES + BETA * divergence
    value = trades(torch.tensor(logits[0]), torch.tensor(logits[1]), torch.tensor(labels), BETA, label_smoothing=0.1)
    assert value.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("loss", ["pgd_at", "trades", "mart", "jsd"])
def test_a_label_below_zero_is_no_loss_of_zero(loss: str) -> None:
    """torch's cross-entropy leaves out -100, and so would count the example as learnt."""
    logits, labels = torch.zeros(3, 4), torch.tensor([0, -100, 2])
    calls = {
        "pgd_at": lambda: pgd_at(logits, labels),
        "trades": lambda: trades(logits, logits, labels, 6.0),
        "mart": lambda: mart(logits, logits, labels, 6.0),
        "jsd": lambda: jsd(logits, logits, logits, labels),
    }
    with pytest.raises(ValueError, match="labels are -100 to 2; with logits of 4 classes they are 0 to 3"):
        calls[loss]()


def test_wrong_arguments_are_refused_by_name() -> None:
    logits, labels = torch.zeros(3, 4), torch.tensor([0, 1, 3])
    said: dict[str, Callable[[], Tensor]] = {
        "labels are 0 to 3; with logits of 3 classes they are 0 to 2": lambda: pgd_at(logits[:, :3], labels),
        "labels: torch.int64 (2,); class numbers, int64 [3]": lambda: pgd_at(logits, labels[:2]),
        "labels: torch.float32 (3,); class numbers": lambda: pgd_at(logits, labels.float()),
        "logits: shape (4,); [N, K]": lambda: pgd_at(logits[0], labels),
        "adv_logits of shape (1, 4) with clean_logits of shape (3, 4)": lambda: trades(logits, logits[:1], labels, 1.0),
        "target_logits of shape (3, 2)": lambda: trades(logits, logits, labels, 1.0, target_logits=logits[:, :2]),
        "beta = -1.0: a number of at least 0": lambda: trades(logits, logits, labels, -1.0),
        "label_smoothing = -1: a share": lambda: pgd_at(logits, labels, label_smoothing=-1),
        "label_smoothing = nan: a share": lambda: pgd_at(logits, labels, label_smoothing=float("nan")),
        "label_smoothing = 2.0: a share": lambda: trades(logits, logits, labels, 1.0, label_smoothing=2.0),
        "weights: the smallest is -1": lambda: pgd_at(logits, labels, weights=torch.tensor([1.0, -1.0, 3.0])),
        "weights: the smallest is nan": lambda: mart(logits, logits, labels, 1.0, weights=logits[:, 0] / 0),
        "weights = -1: a tensor": lambda: pgd_at(logits, labels, weights=-1),  # type: ignore[arg-type]
        "beta = nan": lambda: mart(logits, logits, labels, float("nan")),
        "view2_logits of shape (2, 4)": lambda: jsd(logits, logits, logits[:2], labels),
        "weight = -2: a number": lambda: jsd(logits, logits, logits, labels, -2),
        "clean_probabilities of shape (1, 4) with adv_logits": lambda: kl_divergence(logits, logits[:1]),
    }
    for sentence, call in said.items():
        with pytest.raises(ValueError, match=re.escape(sentence)):
            call()


@pytest.mark.parametrize("shape", [(1,), (3, 1), (2,)])
def test_weights_are_not_broadcast(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"weights of shape {re.escape(str(shape))}: one for each of 3 examples"):
        pgd_at(torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64), weights=torch.ones(shape))


def test_mart_refuses_a_single_class() -> None:
    with pytest.raises(ValueError, match="MART needs at least 2"):
        mart(torch.zeros(3, 1), torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64), beta=5.0)


def test_a_mean_counts_each_example_by_its_weight() -> None:
    values = torch.tensor([1.0, 2.0, 6.0])
    assert weighted_mean(values, None) == 3.0
    assert weighted_mean(values, torch.tensor([2.0, 1.0, 0.0])) == pytest.approx(4 / 3)
