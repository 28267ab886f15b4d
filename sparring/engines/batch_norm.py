"""Batch norm over the examples of all ranks: mean and variance are summed up in each pass, and so are their gradients.

    mean = Σ_r Σ x / n        var = Σ_r Σ (x − mean)² / n        r: ranks, n: examples (and pixels) of all

torch's own (SyncBatchNorm) runs on GPUs alone. A rank whose examples do not count in a step adds none.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class _Summed(torch.autograd.Function):
    """The sum over all ranks; the gradient by it is that of all ranks' losses together."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return _of_all(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _of_all(gradient)


def _of_all(values: Tensor) -> Tensor:
    total = values.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


def _summed(values: Tensor) -> Tensor:
    total: Tensor = _Summed.apply(values)  # type: ignore[no-untyped-call]
    return total


class Synchronised(_BatchNorm):
    """In train mode over all ranks, which must make the same passes; else plain batch norm.

    counts: whether this process's examples count; of all such layers, since a process is one rank.
    """

    counts = True

    def forward(self, x: Tensor) -> Tensor:
        """x: float [N, C] or [N, C, …]."""
        if not self.training:
            running = self.running_mean, self.running_var
            return F.batch_norm(x, *running, self.weight, self.bias, False, 0.0, self.eps)
        dims, shape = [0, *range(2, x.dim())], [1, -1, *[1] * (x.dim() - 2)]
        values, number = x if x.dtype == torch.float64 else x.float(), x.numel() // x.shape[1]
        own = values.new_tensor([number]) * self.counts
        sums = _summed(torch.cat([values.sum(dims) * self.counts, own]))
        mean, count = sums[:-1] / sums[-1], sums[-1].detach()
        centred = values - mean.view(shape)
        variance = _summed(centred.square().sum(dims) * self.counts) / count
        self._follow(mean.detach(), variance.detach() * count / (count - 1).clamp_min(1))
        normal = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.weight is not None:
            normal = normal * self.weight.view(shape) + self.bias.view(shape)
        return normal.to(x.dtype)

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Let the running statistics follow; the variance is that of n − 1."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), momentum)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions."""


def synchronise(network: nn.Module) -> None:
    """Make every batch norm of the network one over all ranks; weights, statistics and their names stay."""
    for module in network.modules():
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            module.__class__ = Synchronised
