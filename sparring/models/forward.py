"""How a model is passed by training and attacks: in which precision and memory format, compiled or not.

Weights stay float32, and so do losses and the projection of perturbations: only the passes are cast, under
`torch.autocast`. Judgements take the plain model (`plain`) and pass it in float32.
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
TOP_EXPONENT = 8  # fp16 holds 2^-24 to 2^16: on their way back gradients may shrink by 2^32 and grow by 2^8
LEAST_GRADIENT = 1e-30  # below it an example is not scaled up any more, so that the scale stays a float32


def for_training(model: nn.Module, settings: ModelSettings) -> nn.Module:
    """`model` as the settings want it passed: itself, or a `Forward` around it that shares its weights.

    Raises:
        UsageError: it is to be compiled, and this machine cannot.
    """
    if settings.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if settings.precision == "fp32" and not settings.channels_last and not settings.compile:
        return model
    return Forward(model, settings)


def plain(model: nn.Module) -> nn.Module:
    """The model itself, whatever `for_training` has put around it."""
    return model.plain if isinstance(model, Forward) else model


class Forward(nn.Module):
    """Passes `plain` as the settings say; float32 in, float32 out.

    Parameters and modes are those of `plain`, and so are the names of a state dict: what is saved or sent knows nothing
    of this.
    """

    def __init__(self, plain: nn.Module, settings: ModelSettings) -> None:
        super().__init__()
        self.plain, self.training = plain, plain.training
        self._dtype, self._channels_last = DTYPES[settings.precision], settings.channels_last
        self._pass: Callable[[nn.Module, Tensor], Tensor] = passed
        if settings.compile:
            require_compiler()
            self._pass = torch.compile(passed)

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
        """That of `plain`."""
        return self.plain.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Into `plain`."""
        return self.plain.load_state_dict(*args, **kwargs)


def passed(model: nn.Module, x: Tensor) -> Tensor:
    """model(x), with the model as an argument: a copy of a `Forward` then passes its own."""
    logits: Tensor = model(x)
    return logits


def with_scaled_gradient(model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The logits of `x`; an attack's gradient is scaled up where it enters the model and down where it leaves it.

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
    """torch.compile writes C++ for the CPU, and its kernels for GPUs are started from C.

    Raises:
        UsageError: there is no C++ compiler, or none that finds Python's headers.
    """
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        raise UsageError(
            f"model.compile = true: no C++ compiler {compiler!r} on PATH, torch.compile needs one. Install it (Debian: "
            f"apt-get install g++), name yours in the environment variable CXX, or set model.compile to false."
        )
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.exists():
        raise UsageError(
            f"model.compile = true: {header} is missing, torch.compile needs it. Install Python's headers (Debian: "
            f"apt-get install python3-dev), or set model.compile to false."
        )
