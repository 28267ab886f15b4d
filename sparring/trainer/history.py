"""The weights of the last steps, for attacks that begin under older weights than those that are trained."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from torch import Tensor, nn

from sparring.models.arrays import HELPER, Arrays
from sparring.models.forward import plain
from sparring.queue.messages import Controls


class Past(NamedTuple):
    """Weights and controls before step `version`."""

    version: int
    weights: dict[str, Tensor]
    controls: Controls

    def arrays(self) -> Arrays:
        """The weights in the form of a snapshot."""
        names = {"model.": "", "helper.": HELPER}
        return {
            names[kind] + name.removeprefix(kind): tensor.cpu().numpy()
            for name, tensor in self.weights.items()
            for kind in names
            if name.startswith(kind)
        }


class History:
    """Copies of the weights before each of the last `length` steps, the oldest first."""

    def __init__(self, length: int) -> None:
        self._kept: deque[Past] = deque(maxlen=length)

    def remember(self, version: int, weights: dict[str, Tensor], controls: Controls) -> None:
        """Keep a copy of the weights before step `version`, unless it is kept already; the oldest is dropped."""
        if not self._kept or self._kept[-1].version != version:
            self._kept.append(Past(version, {name: tensor.clone() for name, tensor in weights.items()}, controls))

    def at(self, version: int) -> Past:
        """The weights before step `version`, or the oldest that are kept."""
        oldest = self._kept[0].version
        return self._kept[max(version, oldest) - oldest]

    def holds(self, version: int) -> bool:
        """Whether the weights before step `version` are kept."""
        return bool(self._kept) and self._kept[0].version <= version <= self._kept[-1].version

    @property
    def newest(self) -> int:
        """The latest version that is kept; -1: none."""
        return self._kept[-1].version if self._kept else -1

    def before(self, version: int) -> list[Past]:
        """All that are older than `version`."""
        return [past for past in self._kept if past.version < version]

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"history": [(step, weights, tuple(controls)) for step, weights, controls in self._kept]}

    def restore(self, state: dict[str, Any] | None) -> None:
        """Continue from `state()`; without one, with nothing remembered."""
        self._kept.clear()
        for step, weights, controls in () if state is None else state["history"]:
            self._kept.append(Past(step, weights, Controls(*controls)))


def networks_of(model: nn.Module, helper: nn.Module | None) -> nn.ModuleDict:
    """What an attack goes by: the model, and a helper network that changes."""
    networks = {"model": model} if helper is None else {"model": model, "helper": helper}
    return nn.ModuleDict({name: plain(network) for name, network in networks.items()})
