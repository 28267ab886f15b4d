"""What the driver hands to its actors beside the configuration, so that they find what the recipe names."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Any

import ray

from sparring import plugins
from sparring.trainer.experiment import NOTHING_PASSED, Live


@dataclass(frozen=True)
class ActorInputs:
    """python_path: where modules are looked for; sources: texts of the user's own files by path, for hosts that lack
    them; live: one reference to objects passed from Python, in a tuple, so that Ray does not resolve it."""

    python_path: tuple[str, ...]
    sources: dict[str, str]
    live: tuple[Any, ...]

    def unpack(self) -> Live:
        """In the actor: make the modules importable, then fetch the objects, which may need them."""
        sys.path[:0] = [path for path in self.python_path if path not in sys.path]
        plugins.install(self.sources)
        return ray.get(self.live[0]) if self.live else NOTHING_PASSED


def actor_inputs(sources: dict[str, str], live: Live) -> ActorInputs:
    """In the driver, once Ray runs."""
    return ActorInputs((os.getcwd(), *sys.path), sources, () if live == NOTHING_PASSED else (ray.put(live),))
