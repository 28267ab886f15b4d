"""Is a network meant for images that are normalised outside of it?"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from sparring.attacks import frozen
from sparring.evaluation.outcomes import clean_outcomes
from sparring.evaluation.significance import sign_test
from sparring.machine.devices import device_of
from sparring.models.normalize import Normalize

GAIN = 0.1  # of clean accuracy, from which on it is said
LEVEL = 0.01  # of a sign test, divided by the number of normalisations


class Normalisation(NamedTuple):
    """Mean and standard deviation by channel, in units of images in [0, 1]."""

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


KNOWN = (
    Normalisation("ImageNet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    Normalisation("CIFAR-10", (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    Normalisation("CIFAR-100", (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    Normalisation("MNIST", (0.1307,), (0.3081,)),
    Normalisation("[-1, 1]", (0.5,), (0.5,)),
    Normalisation("grey levels", (0.0,), (1 / 255,)),
)


def normalised_outside(model: nn.Module, x: Tensor, y: Tensor) -> list[str]:
    """A warning where clean accuracy jumps if the images are normalised first, else [].

    x: float32 [N, C, H, W] in [0, 1]; y: int64 [N]; some hundred examples will do.
    """
    x, y = x.to(device_of(model)), y.to(device_of(model))
    with frozen(model):
        before = clean_outcomes(model, x, y).clean
        after = {each: clean_outcomes(model, _normalised(x, each), y).clean for each in _candidates(x)}
    best = max(after, key=lambda each: int(after[each].sum()))
    gained, lost = int((after[best] & ~before).sum()), int((before & ~after[best]).sum())
    if gained - lost < GAIN * len(y) or sign_test(gained, lost) >= LEVEL / len(after):
        return []
    shares = [f"{100 * float(each.double().mean()):.1f} %" for each in (before, after[best])]
    return [
        f"Clean accuracy on {len(y)} examples is {shares[0]}, and {shares[1]} if their images are normalised first (as "
        f"for {best.name}): the model seems to be made for normalised images, and the figures are not its own. Put "
        f"sparring.Normalize({_numbers(best.mean)}, {_numbers(best.std)}) before it."
    ]


def _candidates(x: Tensor) -> list[Normalisation]:
    """The known ones for images of so many channels, and that of these images."""
    channels = x.transpose(0, 1).flatten(1)
    mean, std = channels.mean(1).tolist(), channels.std(1).clamp_min(1e-6).tolist()
    known = [each for each in KNOWN if len(each.mean) in (1, len(mean))]
    return [*known, Normalisation("these images", tuple(mean), tuple(std))]


def _normalised(x: Tensor, by: Normalisation) -> Tensor:
    images: Tensor = Normalize(by.mean, by.std).to(x.device)(x)
    return images


def _numbers(values: tuple[float, ...]) -> str:
    shown = ", ".join(f"{value:.4g}" for value in values)
    return shown if len(values) == 1 else f"({shown})"
