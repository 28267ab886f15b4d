"""The first layer of a network: which it is, its output and adjoint, and where a network cannot be cut."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sparring.config import ModelSettings
from sparring.errors import UsageError
from sparring.models import MODELS, Normalize, build
from sparring.models.first_layer import FirstLayer, first_layer

SHAPE = (1, 8, 8)
OF_BUILT_IN = {
    "digits-cnn": "1",
    "mnist-16-32-100": "0",
    "mnist-32-64-1024": "0",
    "preact-resnet-18": "stem",
    "preact-resnet-18-wong": "stem",
    "wrn-40-2": "stem",
}


def network(*, inplace: bool = False) -> nn.Sequential:
    torch.manual_seed(3)
    layers = [Normalize(0.3, 0.5), nn.Conv2d(1, 2, 3), nn.ReLU(inplace=inplace), nn.Flatten(), nn.Linear(72, 4)]
    return nn.Sequential(*layers)


def cut(model: nn.Module, name: str | None) -> FirstLayer:
    """In float64 from then on."""
    layer = first_layer(model, name, SHAPE)
    model.double()
    return layer


def images() -> Tensor:
    return torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


class Pair(nn.Linear):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return super().forward(x), x


class Two(nn.Module):
    """Linear layers, put together by `join`."""

    def __init__(self, join: Callable[[Two, Tensor], Tensor]) -> None:
        super().__init__()
        self.one, self.two, self.pair, self.join = nn.Linear(64, 64), nn.Linear(64, 4), Pair(64, 64), join

    def forward(self, x: Tensor) -> Tensor:
        return self.join(self, x.flatten(1))


class Alone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 64))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T


@pytest.mark.parametrize(("name", "module"), OF_BUILT_IN.items())
def test_it_is_the_first_convolution_of_a_built_in_network(name: str, module: str) -> None:
    model = build(ModelSettings(name=name), SHAPE, 4, 0)
    assert name in MODELS and model.training
    assert first_layer(model, None, SHAPE).last is model.get_submodule(module)
    assert model.training, "its mode stays as it was"


def test_what_comes_before_belongs_to_it() -> None:
    model, x = network(), images()
    convolution, activation = cut(model, None), FirstLayer(model, model[2])
    assert isinstance(model[0], Normalize)
    expected = model[1]((x - model[0].mean) / model[0].std)
    assert torch.equal(convolution(x), expected) and torch.equal(activation(x), expected.relu())


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("name", ["1", "2"])
def test_the_adjoint_is_the_gradient_by_its_output(name: str, inplace: bool) -> None:
    model, x = network(inplace=inplace), images()
    with cut(model, name).adjoints() as found:
        model(x).logsumexp(1).sum().backward()
    probabilities = model(x).detach().softmax(1)
    of_features = (probabilities @ model[4].weight).view(5, 2, 6, 6)
    before = model[1](model[0](x))
    expected = of_features if name == "2" else of_features * (before > 0)
    assert len(found) == 1 and torch.allclose(found[0], expected, rtol=1e-12, atol=1e-14)


def test_the_networks_own_except_does_not_stop_it() -> None:
    def careful(self: Two, x: Tensor) -> Tensor:
        try:
            logits: Tensor = self.two(self.one(x))
        except Exception:
            logits = self.two(x)
        return logits

    model = Two(careful)
    x = torch.rand(2, *SHAPE)
    assert torch.equal(FirstLayer(model, model.one)(x), model.one(x.flatten(1)))


@pytest.mark.parametrize(
    ("model", "name", "said"),
    [
        (network(), "conv", "no such module.*such as '0', '1'"),
        (network(), "", "no such module"),
        (network(), "9", "no such module"),
        (nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 4)), None, "'1': it holds a BatchNorm1d"),
        (nn.Sequential(nn.Dropout(), nn.Flatten(), nn.Linear(64, 4)), "0", "holds a Dropout"),
        (Two(lambda net, x: net.two(net.one(net.one(x)))), None, "'one': a forward pass calls it 2 times"),
        (Two(lambda net, x: net.two(x)), "one", "calls it 0 times"),
        (Two(lambda net, x: net.two(net.one(x) + x)), None, "also reach the logits beside it"),
        (Two(lambda net, x: net.two(net.one(x.detach()))), None, "no gradient by the images"),
        (Two(lambda net, x: net.two(x) + net.one(x).detach()[:, :4]), "one", "no gradient by its output"),
        (Two(lambda net, x: net.two(net.pair(net.one(x))[0])), "pair", "returns a tuple"),
        (Alone(), None, "calls no module with parameters but itself"),
    ],
)
def test_a_network_that_cannot_be_cut_there_is_refused(model: nn.Module, name: str | None, said: str) -> None:
    with pytest.raises(UsageError, match=said) as refusal:
        first_layer(model, name, SHAPE)
    assert "yopo.first_layer" in str(refusal.value) and model.training
