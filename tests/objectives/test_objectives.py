"""Losses against a float64 transcription in numpy and its finite differences; passes against sequences made by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from sparring.errors import UsageError
from sparring.objectives import augmix_loss, jsd, kl_divergence, mart, pgd_at, trades, training_loss

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
Name = Literal["pgd-at", "trades", "mart"]
Passes = Literal["reference", "single_pass"]
Ours = Callable[..., Tensor]
Expected = Callable[..., float | Array]

EXAMPLES, CLASSES, BETA = 5, 4, 6.0
SEEDS = range(4)
SCALES = (1.0, 5.0, 10.0, 30.0)  # from 10 on, the clamp of AugMix and the constants of MART bite


def log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def softmax(logits: Array) -> Array:
    return np.asarray(np.exp(log_softmax(logits)))


def cross_entropy(logits: Array, labels: Labels) -> float:
    return -float(log_softmax(logits)[np.arange(len(labels)), labels].mean())


def expected_trades(labels: Labels, clean: Array, adv: Array) -> float:
    p, log_p, log_q = softmax(clean), log_softmax(clean), log_softmax(adv)
    total = 0.0
    for i in range(len(labels)):
        for k in range(p.shape[1]):
            total += p[i, k] * (log_p[i, k] - log_q[i, k])
    return cross_entropy(clean, labels) + BETA * total / len(labels)


def expected_mart(labels: Labels, clean: Array, adv: Array) -> float:
    nat, q, count = softmax(clean), softmax(adv), len(labels)
    margin = robust = 0.0
    for i, y in enumerate(labels):
        wrong = max((k for k in range(q.shape[1]) if k != y), key=lambda k: q[i, k])
        margin -= np.log(1.0001 - q[i, wrong] + 1e-12)
        divergence = sum(nat[i, k] * (np.log(nat[i, k]) - np.log(q[i, k] + 1e-12)) for k in range(q.shape[1]))
        robust += divergence * (1.0000001 - nat[i, y])
    return cross_entropy(adv, labels) + margin / count + BETA * robust / count


def expected_jsd(labels: Labels, clean: Array, view1: Array, view2: Array) -> float:
    probabilities = [softmax(logits) for logits in (clean, view1, view2)]
    mixture = np.log(np.clip(sum(probabilities) / 3.0, 1e-7, 1.0))
    divergences = [(p * (np.log(p) - mixture)).sum() / len(labels) for p in probabilities]
    return cross_entropy(clean, labels) + 12.0 * float(sum(divergences)) / 3.0


def expected_kl(_labels: Labels, clean: Array, adv: Array) -> Array:
    p = softmax(clean)
    return np.asarray((p * np.log(p) - p * log_softmax(adv)).sum(axis=1))


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


def finite_difference(value: Callable[[], float], at: Array, step: float = 1e-5) -> Array:
    """Central differences of `value` in each element of `at`, which is put back."""
    gradient = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        kept = at[index]
        at[index] = kept + step
        above = value()
        at[index] = kept - step
        gradient[index] = (above - value()) / (2 * step)
        at[index] = kept
    return gradient


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


class Counting(nn.Module):
    """A network that keeps what it was asked."""

    def __init__(self, batch_norm: bool) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        self.norm = nn.BatchNorm1d(3) if batch_norm else nn.Identity()
        self.linear = nn.Linear(3, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        logits: Tensor = self.linear(self.norm(x).tanh())
        return logits


def network(batch_norm: bool = False) -> Counting:
    torch.manual_seed(7)
    return Counting(batch_norm).double().train()


def inputs_where(attacked: Sequence[bool]) -> tuple[Tensor, Tensor, Tensor]:
    """x, x_adv and labels; x_adv lies elsewhere than x only where attacked."""
    random = torch.Generator().manual_seed(11)
    mask = torch.tensor(attacked)
    x = torch.randn(len(attacked), 3, generator=random, dtype=torch.float64)
    shift = 1 + torch.randn(len(attacked), 3, generator=random, dtype=torch.float64)
    return x, x + shift * mask[:, None], torch.randint(0, CLASSES, (len(attacked),), generator=random)


ALL, SOME, NONE = [True] * 6, [True, False, True, True, False, False], [False] * 6


def pass_inputs(sequence: str, x: Tensor, x_adv: Tensor, mask: Tensor) -> list[Tensor]:
    return [{"x": x, "adv": x_adv, "attacked": x_adv[mask]}[word] for word in sequence.split()]


@pytest.mark.parametrize(
    ("name", "passes", "attacked", "sequence"),
    [
        ("pgd-at", "reference", SOME, "adv"),
        ("pgd-at", "single_pass", SOME, "adv"),
        ("trades", "reference", SOME, "x adv x"),
        ("trades", "reference", NONE, "x adv x"),
        ("trades", "single_pass", ALL, "x adv"),
        ("trades", "single_pass", SOME, "x attacked"),
        ("trades", "single_pass", NONE, "x"),
        ("mart", "reference", SOME, "x adv"),
        ("mart", "single_pass", SOME, "x attacked"),
        ("mart", "single_pass", NONE, "x"),
    ],
)
def test_batch_norm_sees_the_passes_of_the_method_in_its_order(
    name: Name, passes: Passes, attacked: list[bool], sequence: str
) -> None:
    x, x_adv, labels = inputs_where(attacked)
    model, by_hand = network(batch_norm=True), network(batch_norm=True)
    training_loss(name, model, x, x_adv, labels, beta=BETA, passes=passes)
    expected = pass_inputs(sequence, x, x_adv, torch.tensor(attacked))
    for one in expected:
        by_hand(one)
    assert len(model.seen) == len(expected)
    assert all(torch.equal(seen, one) for seen, one in zip(model.seen, expected, strict=True))
    for name_of_buffer, buffer in by_hand.named_buffers():
        torch.testing.assert_close(model.get_buffer(name_of_buffer), buffer, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["trades", "mart"])
@pytest.mark.parametrize("attacked", [ALL, SOME, NONE], ids=["all", "some", "none"])
def test_without_batch_norm_single_equals_reference_in_value_logits_and_gradient(
    name: Name, attacked: list[bool]
) -> None:
    x, x_adv, labels = inputs_where(attacked)
    results = []
    for passes in ("reference", "single_pass"):
        model = network()
        loss, logits = training_loss(name, model, x, x_adv, labels, beta=BETA, passes=passes)
        results.append((loss, logits, *torch.autograd.grad(loss, list(model.parameters()))))
    for reference, single in zip(*results, strict=True):
        torch.testing.assert_close(single, reference, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "expected"), [("trades", expected_trades), ("mart", expected_mart)])
@pytest.mark.parametrize("passes", ["reference", "single_pass"])
def test_with_batch_norm_the_loss_is_that_of_the_logits_of_its_passes(
    name: Name, expected: Expected, passes: Passes
) -> None:
    x, x_adv, labels = inputs_where(SOME)
    by_hand = network(batch_norm=True)
    clean = by_hand(x).detach()
    adv = by_hand(x_adv).detach()
    if passes == "single_pass":
        adv = clean.clone()
        adv[SOME] = by_hand(x_adv[SOME]).detach()
    loss, logits = training_loss(name, network(batch_norm=True), x, x_adv, labels, beta=BETA, passes=passes)
    torch.testing.assert_close(logits, adv)
    assert loss.item() == pytest.approx(float(expected(labels.numpy(), clean.numpy(), adv.numpy())), abs=1e-11)


def test_the_kl_target_of_trades_comes_from_the_third_pass_of_the_reference() -> None:
    class Drifting(Counting):
        """Each pass scales its logits by its number, as dropout would make passes differ."""

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * len(self.seen)

    x, x_adv, labels = inputs_where(ALL)
    torch.manual_seed(7)
    model = Drifting(batch_norm=False).double()
    clean, adv, again = (model(one).detach() for one in (x, x_adv, x))
    model.seen.clear()
    loss, _ = training_loss("trades", model, x, x_adv, labels, beta=BETA, passes="reference")
    divergence = expected_kl(labels.numpy(), again.numpy(), adv.numpy()).mean()
    assert loss.item() == pytest.approx(cross_entropy(clean.numpy(), labels.numpy()) + BETA * divergence, abs=1e-11)


def test_pgd_at_smooths_labels_and_returns_the_logits_it_used() -> None:
    x, x_adv, labels = inputs_where(SOME)
    loss, logits = training_loss(
        "pgd-at", network(), x, x_adv, labels, beta=BETA, passes="single_pass", label_smoothing=0.2
    )
    torch.testing.assert_close(logits, network()(x_adv).detach())
    torch.testing.assert_close(loss, pgd_at(logits, labels, label_smoothing=0.2))
    assert loss.item() != pytest.approx(pgd_at(logits, labels).item(), abs=1e-3)


def test_trades_is_passed_its_label_smoothing() -> None:
    x, x_adv, labels = inputs_where(SOME)
    loss, _ = training_loss("trades", network(), x, x_adv, labels, beta=BETA, passes="reference", label_smoothing=0.2)
    clean, adv = network()(x).detach(), network()(x_adv).detach()
    torch.testing.assert_close(loss, trades(clean, adv, labels, BETA, label_smoothing=0.2))


def test_label_smoothing_is_refused_where_the_objective_has_none() -> None:
    x, x_adv, labels = inputs_where(SOME)
    with pytest.raises(UsageError, match=r"label_smoothing = 0\.1 .* mart"):
        training_loss("mart", network(), x, x_adv, labels, beta=BETA, passes="single_pass", label_smoothing=0.1)


def augmix_inputs(augmented: Sequence[bool]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, views [2, N, 3], labels and the mask; views are x where not augmented."""
    x, first, labels = inputs_where(augmented)
    mask = torch.tensor(augmented)
    second = torch.where(mask[:, None], 2 * x.flip(0) - first, x)
    return x, torch.stack([first, second]), labels, mask


class Reference:
    """`network(batch_norm=True)` in float64 numpy, in train mode: batch norm of one batch, tanh, linear."""

    def __init__(self) -> None:
        model = network(batch_norm=True)
        self.weights = {name: tensor.detach().numpy().copy() for name, tensor in model.named_parameters()}
        self.mean, self.variance = np.zeros(3), np.ones(3)

    def logits(self, x: Array) -> Array:
        mean, variance = x.mean(axis=0), x.var(axis=0)
        self.mean, self.variance = 0.1 * mean, 0.9 + 0.1 * variance * len(x) / (len(x) - 1)
        hidden = (x - mean) / np.sqrt(variance + 1e-5) * self.weights["norm.weight"] + self.weights["norm.bias"]
        return np.asarray(np.tanh(hidden) @ self.weights["linear.weight"].T + self.weights["linear.bias"])

    def loss(self, x: Array, views: Array, labels: Labels, augmented: npt.NDArray[np.bool_]) -> float:
        """One pass over clean images and views; where there are no views, the clean logits are theirs."""
        count, some = len(x), int(augmented.sum())
        logits = self.logits(np.concatenate([x, views[0][augmented], views[1][augmented]]))
        of_views = [logits[:count].copy(), logits[:count].copy()]
        for view in range(2):
            of_views[view][augmented] = logits[count + view * some :][:some]
        return expected_jsd(labels, logits[:count], *of_views)


@pytest.mark.parametrize("augmented", [ALL, SOME, NONE], ids=["all", "some", "none"])
def test_augmix_under_batch_norm_is_the_transcription_in_loss_gradient_and_running_statistics(
    augmented: list[bool],
) -> None:
    x, views, labels, mask = augmix_inputs(augmented)
    model, reference = network(batch_norm=True), Reference()
    loss, _ = augmix_loss(model, x, views, labels, weight=12.0, augmented=mask)
    gradients = torch.autograd.grad(loss, list(model.parameters()))

    def value() -> float:
        return reference.loss(x.numpy(), views.numpy(), labels.numpy(), mask.numpy())

    assert loss.item() == pytest.approx(value(), abs=1e-11)
    assert len(model.seen) == 1 and len(model.seen[0]) == 6 + 2 * sum(augmented)
    assert isinstance(model.norm, nn.BatchNorm1d)
    assert model.norm.running_mean is not None and model.norm.running_var is not None
    np.testing.assert_allclose(model.norm.running_mean.numpy(), reference.mean, atol=1e-12)
    np.testing.assert_allclose(model.norm.running_var.numpy(), reference.variance, atol=1e-12)
    for (name, _), gradient in zip(model.named_parameters(), gradients, strict=True):
        numeric = finite_difference(value, reference.weights[name])
        np.testing.assert_allclose(gradient.numpy(), numeric, rtol=1e-6, atol=1e-7)


def test_without_batch_norm_views_that_are_the_image_can_be_left_out() -> None:
    x, views, labels, mask = augmix_inputs(SOME)
    results = []
    for augmented in (mask, torch.ones_like(mask)):
        model = network()
        loss, right = augmix_loss(model, x, views, labels, weight=12.0, augmented=augmented)
        results.append((loss, right, *torch.autograd.grad(loss, list(model.parameters()))))
    for left_out, whole in zip(*results, strict=True):
        torch.testing.assert_close(left_out, whole, rtol=1e-12, atol=1e-12)


def test_an_example_counts_as_robust_where_both_of_its_views_are_right() -> None:
    class Told(nn.Module):
        """The class that an input names."""

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.one_hot(x[:, 0].long(), CLASSES).double()

    labels = torch.tensor([1, 1, 1, 1, 2, 3])
    x, first, second = (
        torch.tensor(values)[:, None] for values in ([0, 1, 1, 1, 2, 0], [1, 1, 0, 1, 2, 0], [1, 0, 1, 1, 2, 0])
    )
    augmented = torch.tensor([True, True, True, True, False, False])
    _, right = augmix_loss(Told(), x, torch.stack([first, second]), labels, weight=12.0, augmented=augmented)
    assert right.tolist() == [True, False, False, True, True, False]
