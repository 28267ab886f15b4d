"""A network cut after its first layer: that layer's output alone, and the gradient of a loss by it.

The first layer is all that the network does up to the end of one of its modules, so a normalisation before it belongs
to it. It is computed by the network's own forward pass, which is left when that module has been called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from sparring.errors import UsageError

Shape = tuple[int, int, int]
SETTING = "yopo.first_layer"


class _Reached(BaseException):
    """Leaves the forward pass; no `except Exception` of the network may stop it."""

    def __init__(self, output: Tensor) -> None:
        self.output = output


class FirstLayer:
    """What `network` does up to the end of its module `last`."""

    def __init__(self, network: nn.Module, last: nn.Module) -> None:
        self.network, self.last = network, last

    def __call__(self, x: Tensor) -> Tensor:
        """f₀(x), float [N, ...]; differentiable by x [N, C, H, W] and the weights."""

        def leave(module: nn.Module, given: Any, output: Tensor) -> None:
            raise _Reached(output)

        with _hooked(self.last, leave):
            try:
                self.network(x)
            except _Reached as reached:
                return reached.output
        raise RuntimeError("the network did not call its first layer")

    @contextmanager
    def adjoints(self) -> Iterator[list[Tensor]]:
        """The gradients by f₀'s output of what is differentiated inside, in the order of the backward passes."""
        found: list[Tensor] = []

        def watch(module: nn.Module, given: Any, output: Tensor) -> None:
            output.register_hook(found.append)  # type: ignore[no-untyped-call]

        with _hooked(self.last, watch):
            yield found


def first_layer(network: nn.Module, name: str | None, shape: Shape) -> FirstLayer:
    """The first layer of a network, checked by passes over one black image of `shape` (C, H, W) in eval mode.

    Args:
        name: of the module at whose end it ends, as in `network.named_modules()`. None: the first module that is
            called, has parameters and no modules of its own.

    Raises:
        UsageError: there is no such module, or the network cannot be cut there.
    """
    modes = [(module, module.training) for module in network.modules()]
    try:
        network.eval()
        image = torch.zeros(1, *shape, device=next(network.parameters()).device)
        called = _called(network, image)
        chosen = _first(network, called) if name is None else name
        last = dict(network.named_modules()).get(chosen)
        if last is None or last is network:
            raise UsageError(f"{SETTING} = {name!r}: the network has no such module. {_named(network)}")
        problem = _inside(last) or _problem(network, last, called.count(last), image)
    finally:
        for module, training in modes:
            module.training = training
    if problem:
        raise UsageError(f"{SETTING} = {chosen!r}: {problem}. {_named(network)}")
    return FirstLayer(network, last)


def _called(network: nn.Module, image: Tensor) -> list[nn.Module]:
    """The modules in the order of their calls."""
    called: list[nn.Module] = []
    handles = [
        module.register_forward_pre_hook(lambda module, given: called.append(module)) for module in network.modules()
    ]
    try:
        with torch.no_grad():
            network(image)
    finally:
        for handle in handles:
            handle.remove()
    return called


def _first(network: nn.Module, called: list[nn.Module]) -> str:
    names: dict[nn.Module, str] = {module: name for name, module in network.named_modules()}
    for module in called:
        if module is not network and next(module.parameters(), None) is not None and not any(module.children()):
            return names[module]
    raise UsageError(
        f"{SETTING} is not set, and the network calls no module with parameters but itself, so YOPO finds no first "
        f"layer. Put the first layer into a module of its own, and name it if it holds other modules."
    )


def _inside(last: nn.Module) -> str:
    """What its train mode would do in every inner step."""
    for module in last.modules():
        if isinstance(module, _BatchNorm | _DropoutNd):
            return f"it holds a {type(module).__name__}, which changes or draws something in every inner step"
    return ""


def _problem(network: nn.Module, last: nn.Module, calls: int, image: Tensor) -> str:
    """Why the loss is no function of the images through this module's output alone; empty if it is."""
    if calls != 1:
        return f"a forward pass calls it {calls} times, where once is needed"
    found: list[object] = []

    def cut(module: nn.Module, given: Any, output: object) -> object:
        if not isinstance(output, Tensor):
            found.append(output)
            return output
        apart = output.detach().requires_grad_()
        found.extend((output, apart))
        return apart.clone()  # what follows may change it in place

    image = image.clone().requires_grad_()
    with torch.enable_grad(), _hooked(last, cut):
        logits = network(image)
        output, *apart = found
        if not isinstance(output, Tensor):
            return f"it returns a {type(output).__name__}, where a tensor is needed"
        if not _depends(output, image):
            return "its output has no gradient by the images"
        if not _depends(logits, apart[0]):
            return "the logits have no gradient by its output"
        if _depends(logits, image):
            return "the images also reach the logits beside it"
    return ""


def _depends(value: Tensor, on: object) -> bool:
    if not value.requires_grad or not isinstance(on, Tensor):
        return False
    return torch.autograd.grad(value.sum(), on, allow_unused=True, retain_graph=True)[0] is not None


def _named(network: nn.Module) -> str:
    names = [name for name, module in network.named_modules() if name and not any(module.children())][:6]
    return f"Set {SETTING} to the name of a module near the input, such as {', '.join(map(repr, names))}."


@contextmanager
def _hooked(module: nn.Module, hook: Callable[[nn.Module, Any, Any], object]) -> Iterator[None]:
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
