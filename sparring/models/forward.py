"""The model's passes in training and attacks: their precision and memory format, compiled or not.

Weights, losses and projections stay float32: only the passes are cast, under `torch.autocast`. Evaluations use the
unwrapped model (`plain`) in float32.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sparring.config import ModelSettings
from sparring.errors import UsageError

DTYPES: dict[Literal["fp32", "bf16", "fp16"], torch.dtype | None] = {
    "fp32": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
TOP_EXPONENT = 8  # fp16 has a range of 2^-24 to 2^16: in the backward pass gradients may shrink by 2^32, grow by 2^8
LEAST_GRADIENT = 1e-30  # smaller gradients are not scaled up, so that the scale fits into a float32


def for_training(model: nn.Module, settings: ModelSettings) -> nn.Module:
    """The model for training and attacks: itself, or a `Forward` that wraps it and shares its weights.

    Raises:
        UsageError: model.compile is set, and this machine has no compiler.
    """
    if settings.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if settings.precision == "fp32" and not settings.channels_last and not settings.compile:
        return model
    return Forward(model, settings)


def plain(model: nn.Module) -> nn.Module:
    """The model itself, without the wrapper of `for_training`."""
    return model.plain if isinstance(model, Forward) else model


class Forward(nn.Module):
    """Runs `plain` in the precision and format of the settings; float32 in, float32 out.

    Parameters, modes and the names of a state dict are those of `plain`, so that checkpoints and snapshots do not
    depend on this wrapper.
    """

    def __init__(self, plain: nn.Module, settings: ModelSettings) -> None:
        super().__init__()
        self.plain, self.training = plain, plain.training
        self._dtype, self._channels_last = DTYPES[settings.precision], settings.channels_last
        self._pass: Callable[[nn.Module, Tensor], Tensor] = forward_pass
        if settings.compile:
            require_compiler()
            self._pass = torch.compile(forward_pass)

    def forward(self, x: Tensor) -> Tensor:
        """x: float32 [N, C, H, W] in [0, 1]; returns logits, float32 [N, K]."""
        attacked = x.requires_grad and not self.training
        if self._dtype == torch.float16 and attacked:
            return with_scaled_gradient(self._cast, x)
        return self._cast(x)

    def _cast(self, x: Tensor) -> Tensor:
        if self._channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        if self._dtype is None:
            return self._pass(self.plain, x)
        with torch.autocast(x.device.type, dtype=self._dtype):
            logits = self._pass(self.plain, x)
        return logits.float()

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The state dict of `plain`."""
        return self.plain.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load a state dict into `plain`."""
        return self.plain.load_state_dict(*args, **kwargs)


def forward_pass(model: nn.Module, x: Tensor) -> Tensor:
    """model(x). The model is an argument, so that a copy of a `Forward` runs its own model."""
    logits: Tensor = model(x)
    return logits


def with_scaled_gradient(model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The logits of `x`. In the backward pass the gradient is scaled up at the logits and scaled down at the images.

    The gradient of a loss by the logits of a confident example is tiny (1e-6 at a probability of 1 − 1e-6) and would
    underflow to 0 in fp16 on its way back: an attack along the sign would stand still. In eval mode examples do not
    depend on each other, so each has a scale of its own, which brings its largest entry to about 2^8. What overflows
    all the same becomes 0: such a pixel makes no step, where a NaN would leave the ball.

    Args:
        model: in eval mode. x: [N, C, H, W] that requires a gradient.
    """
    scales: list[Tensor] = []

    def up(gradient: Tensor) -> Tensor:
        largest = gradient.abs().amax(1, keepdim=True).clamp_min(LEAST_GRADIENT)
        scales.append(torch.exp2(TOP_EXPONENT - largest.log2().ceil()))
        return gradient * scales[-1]

    def down(gradient: Tensor) -> Tensor:
        scale = scales.pop().view(-1, *[1] * (gradient.ndim - 1))
        return (gradient / scale).nan_to_num(0.0, 0.0, 0.0)

    inner = x.clone()
    inner.register_hook(down)  # type: ignore[no-untyped-call]
    logits = model(inner)
    logits.register_hook(up)  # type: ignore[no-untyped-call]
    return logits


def require_compiler() -> None:
    """Check for a compiler: torch.compile generates C++ for the CPU, and needs C to start GPU kernels.

    Raises:
        UsageError: there is no C++ compiler, or none that finds Python's headers.
    """
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        raise UsageError(
            f"model.compile = true: no C++ compiler {compiler!r} on PATH, but torch.compile needs one. Install it "
            f"(Debian: apt-get install g++), name yours in the environment variable CXX, or set model.compile to false."
        )
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.exists():
        raise UsageError(
            f"model.compile = true: {header} is missing, but torch.compile needs it. Install Python's headers (Debian: "
            f"apt-get install python3-dev), or set model.compile to false."
        )
