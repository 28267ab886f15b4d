"""A network read as a chain of affine maps with ReLUs between them, in float64."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor, nn

from sparring.errors import SparringError, UsageError
from sparring.models.forward import plain
from sparring.models.normalize import Normalize

Array = NDArray[np.float64]

AFFINE = (nn.Linear, nn.Conv2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.BatchNorm1d, nn.BatchNorm2d, Normalize)
SHAPES = (nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout2d)  # in eval mode they pass values on
SUPPORTED = "Linear, Conv2d, ReLU, Flatten, AvgPool2d, BatchNorm, Normalize, Dropout and Identity in nn.Sequential"
AT_ONCE = 256  # rows of a matrix
AGREEMENT = 1e-9  # relative to the largest logit
TRIED = 16  # images


@dataclass(frozen=True)
class ReluNetwork:
    """z_i = W_i a_{i-1} + b_i and a_i = max(0, z_i); a_0 is the flattened image, and the last z are the logits.

    shape: (C, H, W) of an image. weights: W_i, sparse float64 [n_i, n_{i-1}]. biases: b_i, float64 [n_i].
    layers: the network's own modules in their order, in eval mode and float32.
    """

    shape: tuple[int, int, int]
    weights: tuple[Any, ...]
    biases: tuple[Array, ...]
    layers: nn.Sequential

    @property
    def classes(self) -> int:
        return len(self.biases[-1])

    def preactivations(self, images: Array) -> list[Array]:
        """z_i of flattened images, float64 [N, n_0]: of each affine map [N, n_i]."""
        found: list[Array] = []
        values = images
        for weight, bias in zip(self.weights, self.biases, strict=True):
            found.append(values @ weight.T + bias)
            values = np.maximum(found[-1], 0)
        return found

    def logits(self, images: Array) -> Array:
        """float64 [N, K], of flattened images, float64 [N, n_0]."""
        return self.preactivations(images)[-1]


def relu_network(model: nn.Module, shape: tuple[int, int, int]) -> ReluNetwork:
    """The chain that `model` computes in eval mode on images of `shape`.

    Raises:
        UsageError: it has a layer that is neither affine nor a ReLU, or is no chain; the layer is named.
        SparringError: the chain gives other logits than the network.
    """
    leaves = list(_leaves(copy.deepcopy(plain(model)).cpu().float().eval(), "the network"))
    weights, biases, size = [], [], tuple(shape)
    for run in _affine_runs(leaves):
        weight, bias, size = _affine(nn.Sequential(*copy.deepcopy(run)).double(), size)
        weights.append(weight)
        biases.append(bias)
    found = ReluNetwork(shape, tuple(weights), tuple(biases), nn.Sequential(*leaves))
    require_agreement(found, model)
    return found


def require_agreement(network: ReluNetwork, model: nn.Module) -> None:
    """Compare the logits of chain and network in float64 on random images in [0, 1].

    Raises:
        SparringError: they differ by more than rounding: the network does more than its layers in their order.
    """
    images = torch.rand(TRIED, *network.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole = copy.deepcopy(plain(model)).cpu().double().eval()
    with torch.no_grad():
        expected: Array = whole(images).numpy()
    found = network.logits(images.flatten(1).numpy())
    if found.shape != expected.shape or not np.abs(found - expected).max() <= AGREEMENT * (1 + np.abs(expected).max()):
        raise SparringError(
            "the network's layers in their order give other logits than the network: its forward() does something "
            f"beside them, and it cannot be verified. A chain of {SUPPORTED} can be."
        )


def _leaves(module: nn.Module, name: str) -> Iterator[nn.Module]:
    """The layers of nested nn.Sequential in their order; a layer of an unknown kind is refused."""
    if type(module).forward is nn.Sequential.forward:
        for label, child in module.named_children():
            yield from _leaves(child, label if name == "the network" else f"{name}.{label}")
        return
    kind = type(module).__name__
    if type(module) not in (*AFFINE, *SHAPES, nn.ReLU):
        raise UsageError(f"{name} is a {kind}, which cannot be verified. Supported: {SUPPORTED}.")
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.running_mean is None:
        raise UsageError(
            f"{name} is a {kind} that normalises by the batch: it keeps no running mean, so no image has logits of "
            f"its own. Supported: {SUPPORTED}."
        )
    yield module


def _affine_runs(leaves: Sequence[nn.Module]) -> Iterator[list[nn.Module]]:
    """What stands between two ReLUs; the identity where that is nothing."""
    run: list[nn.Module] = []
    for leaf in leaves:
        if isinstance(leaf, nn.ReLU):
            yield run
            run = []
        else:
            run.append(leaf)
    yield run


def _affine(function: nn.Module, size: tuple[int, ...]) -> tuple[Any, Array, tuple[int, ...]]:
    """Matrix, offset, and size of the result, of an affine function of tensors of `size`."""
    function = function.requires_grad_(False)
    offset: Tensor = function(torch.zeros(1, *size, dtype=torch.float64))
    outputs = offset.numel()
    blocks = [
        sparse.csr_array(_rows(function, size, torch.arange(first, min(first + AT_ONCE, outputs))))
        for first in range(0, outputs, AT_ONCE)
    ]
    return sparse.vstack(blocks).tocsr(), offset.flatten().numpy(), tuple(offset.shape[1:])


def _rows(function: nn.Module, size: tuple[int, ...], which: Tensor) -> Array:
    """These rows of the matrix, float64 [len(which), inputs]: the gradients of the outputs, which have no offset."""
    zeros = torch.zeros(len(which), *size, dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        outputs = function(zeros).flatten(1)[torch.arange(len(which)), which]
        (gradient,) = torch.autograd.grad(outputs.sum(), zeros)
    found: Array = gradient.flatten(1).numpy()
    return found
