"""Is masking found where it is, and nowhere else? The verdict of `sparring curves` on ten networks of the digits.

Five mask their gradients on purpose, five are sound; three more are hard to judge. Each seed trains its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.measure import header, machine, row
from sparring.attacks import PGD
from sparring.config import DataSettings, EvaluationSettings
from sparring.data import batch, load
from sparring.evaluation.curves import Curves, curves

EPSILON = 0.08
PIXELS, CLASSES, WIDTH = 64, 10, 64
STEEP = 1000.0
LEVELS = 4
Change = Callable[[Tensor], Tensor]


class Changed(nn.Module):
    """A network behind a change of its images, before a change of its logits."""

    def __init__(self, network: nn.Module, images: Change | None = None, logits: Change | None = None) -> None:
        super().__init__()
        self.network, self.images, self.logits = network, images, logits

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.network(x if self.images is None else self.images(x))
        return found if self.logits is None else self.logits(found)


class LookUp(torch.autograd.Function):
    """A table of grey levels. The backward pass returns a gradient, but of a mirrored image."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return looked_up(x)

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].flip(2, 3)


class Median(torch.autograd.Function):
    """A median filter of 3×3 pixels, whose backward pass is that of the identity: a gradient that is partly right."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        around = F.pad(x, (1, 1, 1, 1), mode="replicate").unfold(2, 3, 1).unfold(3, 3, 1)
        return around.flatten(4).median(4).values

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def scaled(logits: Tensor) -> Tensor:
    return STEEP * logits


def saturated(logits: Tensor) -> Tensor:
    """Steep sigmoids around the middle of the two highest logits: the decision stays the same."""
    middle = logits.topk(2, 1).values.mean(1, keepdim=True)
    return torch.sigmoid(STEEP * (logits - middle))


def quantised(x: Tensor) -> Tensor:
    return (LEVELS * x).round() / LEVELS


def resized(x: Tensor) -> Tensor:
    """Each image at a random size between 75 % and 100 %, at a random place."""
    scale = 1 + torch.rand(len(x), 1, 1) / 3
    shift = (scale - 1) * (2 * torch.rand(len(x), 2, 1) - 1)
    transform = torch.cat([scale * torch.eye(2), shift], 2)
    return F.grid_sample(x, F.affine_grid(transform, list(x.shape), align_corners=False), align_corners=False)


def looked_up(x: Tensor) -> Tensor:
    """By indices into a table: nothing that torch differentiates."""
    return torch.linspace(0, 1, LEVELS + 1)[(LEVELS * x).round().long()]


def mirrored(x: Tensor) -> Tensor:
    found: Tensor = LookUp.apply(x)  # type: ignore[no-untyped-call]
    return found


def filtered(x: Tensor) -> Tensor:
    found: Tensor = Median.apply(x)  # type: ignore[no-untyped-call]
    return found


def perceptron(hidden: int = 1, activation: type[nn.Module] = nn.ReLU, batch_norm: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    for number in range(hidden):
        layers.append(nn.Linear(WIDTH if number else PIXELS, WIDTH))
        layers += [nn.BatchNorm1d(WIDTH), activation()] if batch_norm else [activation()]
    return nn.Sequential(*layers, nn.Linear(WIDTH, CLASSES))


def trained(make: Callable[[], nn.Module], seed: int, steps: int = 150, epsilon: float = 0.0) -> nn.Module:
    """By Adam on all training digits; with `epsilon` on their PGD-3 examples."""
    training = load(DataSettings(), "train")
    x, y = batch(training, torch.arange(len(training)), augment="none", seed=seed, epoch=0)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = make()
        optimizer = torch.optim.Adam(network.parameters(), 3e-3)
        for _ in range(steps):
            images = PGD(epsilon, steps=3)(network, x, y) if epsilon else x
            loss = F.cross_entropy(network.train()(images), y)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
    return network.eval()


@cache
def base(seed: int) -> nn.Module:
    """What is put behind the changes."""
    return trained(perceptron, seed)


MASKING: dict[str, Callable[[int], nn.Module]] = {
    "scaled logits": lambda seed: Changed(base(seed), logits=scaled),
    "quantised input": lambda seed: Changed(base(seed), images=quantised),
    "random resizing": lambda seed: trained(lambda: Changed(perceptron(), images=resized), seed),
    "sigmoid saturation": lambda seed: Changed(base(seed), logits=saturated),
    "lookup table": lambda seed: Changed(base(seed), images=mirrored),
}
SOUND: dict[str, Callable[[int], nn.Module]] = {
    "plain, 3,000 steps": lambda seed: trained(perceptron, seed, steps=3000),
    "adversarially trained": lambda seed: trained(perceptron, seed, epsilon=EPSILON),
    "deep, 6 layers": lambda seed: trained(lambda: perceptron(6), seed),
    "batch norm": lambda seed: trained(lambda: perceptron(2, batch_norm=True), seed),
    "tanh": lambda seed: trained(lambda: perceptron(activation=nn.Tanh), seed),
}
HARD: dict[str, Callable[[int], nn.Module]] = {
    "median filter": lambda seed: Changed(base(seed), images=filtered),
    "logits times 10": lambda seed: Changed(base(seed), logits=lambda logits: 10 * logits),
    "logits times 20": lambda seed: Changed(base(seed), logits=lambda logits: 20 * logits),
}


def judged(network: nn.Module, seed: int, settings: EvaluationSettings) -> Curves:
    """The curves of the test digits, with what the network draws at random fixed by the seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return curves(network, load(DataSettings(), "test"), PGD(EPSILON), settings, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--samples", type=int, help="test digits (default: all 360)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(machine(), flush=True)
    print(header("network", "seed", "clean", "PGD-100", "Square", "verdict", "evidence that points to it"))
    for seed in range(options.seeds):
        for name, make in (MASKING | SOUND | HARD).items():
            found = judged(make(seed), seed, EvaluationSettings(samples=options.samples))
            assert found.black_box is not None
            points = (found.by_epsilon[0], found.by_steps[-1], found.black_box)
            shares = [f"{100 * point.robust_accuracy:.1f}" for point in points]
            pointing = ", ".join(each.name for each in found.masking.evidence if each.points)
            print(row(name, seed, *shares, found.masking.verdict, pointing), flush=True)


if __name__ == "__main__":
    main()
