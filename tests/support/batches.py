"""A small batch of images, and small networks to attack."""

from __future__ import annotations

import torch
from torch import Tensor, nn

PIXELS = 36


def images(count: int = 16, low: float = 0.0, high: float = 1.0) -> tuple[Tensor, Tensor]:
    """float32 [count, 1, 6, 6] in [low, high], and labels 0 or 1."""
    random = torch.Generator().manual_seed(1)
    x = low + (high - low) * torch.rand(count, 1, 6, 6, generator=random)
    return x, torch.randint(0, 2, (count,), generator=random)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear_model() -> nn.Sequential:
    """Two classes; its second layer is the linear one."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 2)).eval().requires_grad_(False)


def margin(model: nn.Sequential, y: Tensor) -> Tensor:
    """[N, 36]: the gradient of the wrong class's logit over the right one's under `linear_model`."""
    linear = model[1]
    assert isinstance(linear, nn.Linear)
    return linear.weight[1 - y] - linear.weight[y]


def small_network() -> nn.Module:
    torch.manual_seed(5)
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * PIXELS, 10)]
    return nn.Sequential(*layers).eval().requires_grad_(False)


def network_with_batch_norm() -> nn.Module:
    """In train mode, its running statistics far from those of a batch."""
    torch.manual_seed(5)
    norm = nn.BatchNorm2d(4)
    norm.load_state_dict(
        {**norm.state_dict(), "running_mean": torch.full((4,), 0.3), "running_var": torch.full((4,), 0.5)}
    )
    layers = [nn.Conv2d(1, 4, 3, padding=1), norm, nn.ReLU(), nn.Flatten(), nn.Linear(4 * PIXELS, 10)]
    return nn.Sequential(*layers).train()
