"""Float64 networks and batches that losses are transcribed on; formulas as the papers write them, without our code."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sparring.objectives import Batch, Objective

CLASSES = 5
Written = Callable[[nn.Module, nn.Module, Batch], Tensor]  # model, helper, batch -> [N], in the order of its passes


def network(seed: int) -> nn.Module:
    """With batch norm, which tells the order of its passes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = (nn.Flatten(), nn.Linear(27, 12), nn.BatchNorm1d(12), nn.Tanh(), nn.Linear(12, CLASSES))
        return nn.Sequential(*layers).double()


def batch(weighted: bool) -> Batch:
    """Twenty examples; the last three were not attacked."""
    random = torch.Generator().manual_seed(0)
    x = torch.rand(20, 3, 3, 3, generator=random, dtype=torch.float64)
    delta = 0.2 * torch.randn(x.shape, generator=random, dtype=torch.float64)
    delta[17:] = 0
    labels = torch.randint(CLASSES, (20,), generator=random)
    weights = torch.rand(20, generator=random, dtype=torch.float64)
    return Batch(x, (x + delta).clamp(0, 1), labels, weights / weights.mean() if weighted else None)


def probabilities(logits: Tensor) -> Tensor:
    """Softmax, as it is written in books."""
    powers = torch.exp(logits)
    return powers / powers.sum(1, keepdim=True)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """[N]."""
    return -torch.log(probabilities(logits)[torch.arange(len(labels)), labels])


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """[N]: KL(p ‖ q) of probabilities [N, K]."""
    return (p * torch.log(p / q)).sum(1)


def assert_is(objective: Objective, written: Written, *, weighted: bool, trained: bool) -> None:
    """Loss, gradients and batch norm's statistics are those of the formula; a helper moves only where it is trained."""
    model, helper, examples = network(1), network(2), batch(weighted)
    helper.train(trained).requires_grad_(trained)
    networks = nn.ModuleList([model, helper])
    expected = copy.deepcopy(networks)
    loss, correct = objective(model, examples, helper)
    values = written(expected[0], expected[1], examples)
    total = (values if examples.weights is None else values * examples.weights).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    total.backward()  # type: ignore[no-untyped-call]
    assert torch.allclose(loss.double(), total, atol=0, rtol=1e-6)
    for one, other in zip(networks.parameters(), expected.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        assert one.grad is None or torch.allclose(one.grad, other.grad, atol=1e-6, rtol=1e-5)  # type: ignore[arg-type]
    for moved, expected_to in zip(networks.buffers(), expected.buffers(), strict=True):
        assert torch.allclose(moved, expected_to, atol=1e-12, rtol=0)
    assert all((parameter.grad is not None) == trained for parameter in helper.parameters())
    with torch.no_grad():
        assert torch.equal(correct, network(1)(examples.x_adv).argmax(1) == examples.labels)
