"""Small ReLU networks, and the least margin over a box by trying every activation pattern: no code of the package."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog
from torch import nn

Array = NDArray[np.float64]


def random_network(seed: int, sizes: tuple[int, ...]) -> nn.Sequential:
    """Linear layers of these sizes with ReLUs between them, for images [1, 1, sizes[0]]."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU()]
            nn.init.normal_(layers[-2].weight, std=1.5 / before**0.5)  # type: ignore[arg-type]
            nn.init.normal_(layers[-2].bias, std=0.3)  # type: ignore[arg-type]
    return nn.Sequential(*layers[:-1]).eval()


def for_digits(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A network that can be verified in moments."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, classes))


def least_margin_by_patterns(model: nn.Sequential, lower: Array, upper: Array, label: int, other: int) -> float:
    """min over the box of logit[label] − logit[other]: with every ReLU set on or off it is a linear program."""
    linear = [each for each in model if isinstance(each, nn.Linear)]
    weights = [each.weight.detach().double().numpy() for each in linear]
    biases = [each.bias.detach().double().numpy() for each in linear]
    best = np.inf
    for pattern in product((0.0, 1.0), repeat=sum(len(each) for each in biases[:-1])):
        signs, matrix, offset = list(pattern), np.eye(len(lower)), np.zeros(len(lower))
        rows, limits = [], []
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            matrix, offset = weight @ matrix, weight @ offset + bias
            on, signs = np.array(signs[: len(bias)]), signs[len(bias) :]
            rows.append(np.where(on[:, None] > 0, -matrix, matrix))
            limits.append(np.where(on > 0, offset, -offset))
            matrix, offset = on[:, None] * matrix, on * offset
        row = weights[-1][label] - weights[-1][other]
        shift = row @ offset + biases[-1][label] - biases[-1][other]
        found = linprog(
            row @ matrix, np.concatenate(rows), np.concatenate(limits), bounds=np.stack([lower, upper], axis=1)
        )
        if found.status == 0:
            best = min(best, found.fun + shift)
    return float(best)
