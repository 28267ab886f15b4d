"""The chain of affine maps and ReLUs is the network; what is no such chain is refused by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from sparring.errors import SparringError, UsageError
from sparring.evaluation.relu_network import relu_network
from sparring.models import Normalize
from sparring.models.convolutional import mnist_16_32_100

SHAPE = (2, 6, 6)


def normed() -> nn.BatchNorm2d:
    """With statistics of its own, as after training."""
    made = nn.BatchNorm2d(4)
    with torch.no_grad():
        for each in (made.weight, made.running_var):
            assert each is not None
            each.copy_(torch.rand(4) + 0.5)
        for each in (made.bias, made.running_mean):
            assert each is not None
            each.copy_(torch.randn(4))
    return made


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "of Wong et al.": lambda: mnist_16_32_100((2, 8, 8), 10),
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, 5)),
    "deep": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(72, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 3)
    ),
    "normalised": lambda: nn.Sequential(Normalize((0.3, 0.6), (0.2, 0.5)), nn.Flatten(), nn.Linear(72, 4), nn.ReLU()),
    "convolution": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3)
    ),
    "odd convolution": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3, dilation=2, groups=2, padding=2, padding_mode="reflect", bias=False),
        nn.ReLU(),
        nn.Conv2d(4, 1, (2, 3)),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(20, 3),
    ),
    "batch norm and pooling": lambda: nn.Sequential(
        nn.Sequential(nn.Conv2d(2, 4, 3), normed(), nn.ReLU()),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(16, 3),
    ),
    "ReLU first and twice": lambda: nn.Sequential(nn.ReLU(), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3), nn.Identity()),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_chain_has_the_networks_logits(name: str) -> None:
    model = NETWORKS[name]().train()
    shape = (2, 8, 8) if name == "of Wong et al." else SHAPE
    network = relu_network(model, shape)
    assert model.training, "the caller's network is left as it is"
    images = torch.rand(9, *shape, dtype=torch.float64)
    expected = model.eval().double()(images).detach()
    found = torch.from_numpy(network.logits(images.flatten(1).numpy()))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert network.classes == expected.shape[1]


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(72, 72)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.relu(self.inner(x))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (nn.Sequential(nn.Conv2d(2, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()), "2 is a MaxPool2d, which cannot"),
        (nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(72, 3), nn.GELU())), "1.1 is a GELU, which cannot"),
        (nn.Sequential(nn.Flatten(), Residual()), "1 is a Residual, which cannot"),
        (Residual(), "the network is a Residual, which cannot"),
        (
            nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False), nn.Flatten()),
            "0 is a BatchNorm2d that normalises",
        ),
    ],
)
def test_what_is_no_such_chain_is_refused_by_name(model: nn.Module, said: str) -> None:
    with pytest.raises(UsageError, match=said) as refused:
        relu_network(model, SHAPE)
    assert "Supported: Linear, Conv2d, ReLU" in str(refused.value)


def test_a_network_that_does_more_than_its_layers_is_found_out() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 3))
    model.register_forward_hook(lambda module, images, logits: logits + 1e-6)
    with pytest.raises(SparringError, match="give other logits than the network"):
        relu_network(model, SHAPE)
