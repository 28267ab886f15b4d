"""Linear networks, whose margins have a closed form."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

DUAL = {"linf": 1.0, "l2": 2.0, "l1": math.inf}
SHAPE = (1, 4, 4)


def linear(classes: int, seed: int = 0) -> nn.Module:
    """In the middle of [0, 1] all logits are equal."""
    torch.manual_seed(seed)
    layer = nn.Linear(math.prod(SHAPE), classes)
    with torch.no_grad():
        layer.bias.copy_(-0.5 * layer.weight.sum(1))
    return nn.Sequential(nn.Flatten(), layer).eval()


def examples(model: nn.Module, count: int = 20) -> tuple[Tensor, Tensor]:
    """Images in the middle of [0, 1], so that the box binds nowhere near them; labels as the model has them."""
    x = 0.5 + 0.02 * torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return x, model(x).argmax(1)


def exact(model: nn.Module, x: Tensor, labels: Tensor, norm: str) -> Tensor:
    """min over the other classes of the difference of logits over the dual norm of the difference of weights."""
    layer = model[1]  # type: ignore[index]
    weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
    logits = x.flatten(1).double() @ weight.T + bias
    found = torch.full((len(x),), math.inf, dtype=torch.float64)
    for other in range(len(bias)):
        gap = logits.gather(1, labels[:, None])[:, 0] - logits[:, other]
        length = torch.linalg.vector_norm(weight[labels] - weight[other], ord=DUAL[norm], dim=1)
        found = torch.where(labels == other, found, torch.minimum(found, gap / length.clamp_min(1e-300)))
    return found
