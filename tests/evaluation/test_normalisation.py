"""A network that is made for normalised images is recognised; one that is not, is not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import sparring
from sparring.data import ArrayDataset, Dataset
from sparring.evaluation.normalisation import KNOWN, Normalisation, normalised_outside
from sparring.models.normalize import Normalize
from tests.support.digits import half_trained, training_digits
from tests.support.models import Brightness, greys


def doubted(model: nn.Module, dataset: Dataset) -> list[str]:
    indices = torch.arange(min(200, len(dataset)))
    return normalised_outside(model, dataset.images(indices).float() / 255, dataset.labels[indices])


class After(nn.Module):
    """The network as it is for images that have been normalised by `mean` and `std`."""

    def __init__(self, network: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.network, self.mean, self.std = network, mean, std

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, K]; x: normalised."""
        logits: Tensor = self.network((x * self.std + self.mean).clamp(0, 1))
        return logits


@pytest.mark.parametrize("known", [each for each in KNOWN if len(each.mean) == 1], ids=lambda each: each.name)
def test_a_network_for_normalised_images_is_recognised_and_the_remedy_cures_it(known: Normalisation) -> None:
    network, dataset = half_trained(training_digits()).eval(), training_digits()
    outside = After(network, torch.tensor(known.mean[0]), torch.tensor(known.std[0]))
    (warning,) = doubted(outside, dataset)
    assert "made for normalised images" in warning and "sparring.Normalize(" in warning
    assert doubted(nn.Sequential(Normalize(known.mean[0], known.std[0]), outside), dataset) == []


def test_each_channel_has_its_own_mean() -> None:
    colours = torch.tensor([[200, 40, 90], [60, 180, 90], [90, 90, 220]], dtype=torch.uint8)
    images = colours.repeat(30, 1)[:, :, None, None].expand(-1, -1, 4, 4).contiguous()
    dataset = ArrayDataset(images, torch.arange(90) % 3, 3, "colours")
    mean, std = (torch.tensor(part).view(3, 1, 1) for part in (KNOWN[0].mean, KNOWN[0].std))

    class Colour(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            """Logits [N, 3]: minus the distance to each colour; of none of them, another's."""
            distances = torch.cdist((x * std + mean).mean((2, 3)), colours / 255)
            return -torch.where(distances.amin(1, keepdim=True) < 0.01, distances, distances.roll(1, 1))

    assert "(as for ImageNet)" in doubted(Colour(), dataset)[0]
    assert doubted(nn.Sequential(Normalize(*KNOWN[0][1:]), Colour()), dataset) == []


def test_a_network_for_images_as_they_are_is_not_accused() -> None:
    assert doubted(Brightness(), greys(torch.linspace(-0.19, 0.19, 40))) == []
    assert doubted(half_trained(training_digits()), training_digits()) == []


def test_sparring_evaluate_says_so() -> None:
    outside = After(half_trained(training_digits()).eval(), torch.tensor(0.5), torch.tensor(0.5))
    found = sparring.evaluate(outside, training_digits(), epsilon=0.1, steps=1, restarts=1, samples=60)
    assert any("made for normalised images" in text for text in found.warnings)
