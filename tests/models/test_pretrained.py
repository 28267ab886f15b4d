"""timm's networks: built from the seed, behind their own mean and standard deviation."""

from __future__ import annotations

import pytest
import torch

from sparring.config import ModelSettings
from sparring.errors import SparringError, UsageError
from sparring.models import build


def network(name: str, shape: tuple[int, int, int] = (3, 32, 32), classes: int = 5, **how: bool) -> torch.nn.Module:
    return build(ModelSettings(name=f"timm:{name}"), shape, classes, 0, **how)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_the_seed_decides_the_weights_and_images_are_normalised_inside(name: str) -> None:
    one, two = network(name).eval(), network(name).eval()
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(one(x), two(x), rtol=0, atol=0)
        inner = two.get_submodule("network")
        assert inner.pretrained_cfg["mean"] == (0.5, 0.5, 0.5)  # type: ignore[index]
        torch.testing.assert_close(one(x), inner((x - 0.5) / 0.5))


def test_mean_and_deviation_are_those_of_the_network_or_their_mean_for_other_channels() -> None:
    assert network("resnet10t").state_dict()["normalize.std"].flatten().tolist() == pytest.approx([0.229, 0.224, 0.225])
    grey = network("resnet10t", (1, 16, 16)).state_dict()
    assert float(grey["normalize.mean"]) == pytest.approx((0.485 + 0.456 + 0.406) / 3)


def test_a_convolutional_network_takes_the_sizes_of_phases_and_a_transformer_does_not() -> None:
    settings = ModelSettings(name="timm:test_resnet")
    build(settings, (3, 32, 32), 5, 0, sizes=[16, 24])
    with pytest.raises(UsageError, match=r"cannot take images of shape \(3, 16, 16\)"):
        build(ModelSettings(name="timm:vit_tiny_patch16_224"), (3, 32, 32), 5, 0, sizes=[16])


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"timm:resnet81.* has no such model; the nearest is resnet18"):
        network("resnet81")


def test_weights_that_cannot_be_had_are_told_with_the_remedy() -> None:
    with pytest.raises(
        SparringError, match=r"weights of timm:test_resnet\.none could not be loaded .*model\.checkpoint"
    ):
        network("test_resnet.none", pretrained=True)
