"""AugMix's objective against a float64 transcription with batch norm; which views are passed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from sparring.config import AugmixSettings
from sparring.objectives import Batch
from sparring.objectives.augmix import AugMixConsistency, augmix_loss
from sparring.objectives.methods import Passes
from tests.support.losses import Array, Labels, expected_jsd, finite_difference
from tests.support.passes import ALL, CLASSES, NONE, SOME, batch_where, network


def augmix_inputs(augmented: Sequence[bool]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, views [2, N, 3], labels and the mask; views are x where not augmented."""
    batch = batch_where(augmented)
    x, first, labels = batch.x, batch.x_adv, batch.labels
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
        loss, correct = augmix_loss(model, x, views, labels, weight=12.0, augmented=augmented)
        results.append((loss, correct, *torch.autograd.grad(loss, list(model.parameters()))))
    for left_out, whole in zip(*results, strict=True):
        torch.testing.assert_close(left_out, whole, rtol=1e-12, atol=1e-12)


def test_an_example_counts_as_robust_where_both_of_its_views_are_correct() -> None:
    class Named(nn.Module):
        """The class that an input names."""

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.one_hot(x[:, 0].long(), CLASSES).double()

    labels = torch.tensor([1, 1, 1, 1, 2, 3])
    x, first, second = (
        torch.tensor(values)[:, None] for values in ([0, 1, 1, 1, 2, 0], [1, 1, 0, 1, 2, 0], [1, 0, 1, 1, 2, 0])
    )
    augmented = torch.tensor([True, True, True, True, False, False])
    _, correct = augmix_loss(Named(), x, torch.stack([first, second]), labels, weight=12.0, augmented=augmented)
    assert correct.tolist() == [True, False, False, True, True, False]


@pytest.mark.parametrize(("passes", "rows"), [("reference", 18), ("single_pass", 12)])
def test_the_objective_passes_all_views_or_those_that_are_not_the_image(passes: Passes, rows: int) -> None:
    x, views, labels, mask = augmix_inputs(SOME)
    model, by_hand = network(batch_norm=True), network(batch_norm=True)
    loss, correct = AugMixConsistency(AugmixSettings(weight=5.0), passes)(model, Batch(x, x, labels, views=views))
    passed = torch.ones_like(mask) if passes == "reference" else mask
    expected, of_views = augmix_loss(by_hand, x, views, labels, weight=5.0, augmented=passed)
    assert [len(seen) for seen in model.seen] == [rows]
    assert torch.equal(loss, expected) and torch.equal(correct, of_views)


def test_a_batch_without_views_is_an_error() -> None:
    batch = batch_where(SOME)
    with pytest.raises(ValueError, match="a batch without views"):
        AugMixConsistency(AugmixSettings())(network(), batch)


def test_without_the_divergence_one_view_is_trained_on_and_the_clean_image_is_not() -> None:
    """The authors' --no-jsd, in float64."""
    x, views, labels, mask = augmix_inputs(SOME)
    seen: list[Tensor] = []

    def wide(images: Tensor) -> Tensor:
        return torch.cat([images, images.square()], 1)[:, :CLASSES]

    class Seen(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(images)
            return wide(images)

    loss, right = augmix_loss(Seen(), x, views, labels, weight=0.0, augmented=mask)
    assert len(seen) == 1 and torch.equal(seen[0], views[0])
    logits = wide(views[0].double())
    expected = (logits.exp().sum(1).log() - logits[torch.arange(len(labels)), labels]).mean()
    assert float(loss) == pytest.approx(float(expected), abs=1e-5)
    assert torch.equal(right, logits.argmax(1) == labels)
