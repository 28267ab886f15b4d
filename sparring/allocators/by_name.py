"""Make the allocator that a recipe names."""

from __future__ import annotations

from typing import Any, cast

from sparring.allocators.allocator import Allocator
from sparring.config import AllocatorSettings
from sparring.errors import UsageError
from sparring.plugins import call, resolve

BUILT_IN = {
    "none": "sparring.allocators.by_name:nobody",
    "bullettrain": "sparring.allocators.bullettrain:BulletTrain",
    "oracle": "sparring.allocators.oracle:Oracle",
}
TAKEN = ("boundary_steps", "robust_steps", "outlier_steps", "gamma", "momentum")


def allocator_of(settings: AllocatorSettings) -> Allocator | None:
    """The allocator of the settings; None: all examples get the attack's own steps.

    A factory of your own is called with `allocator.options`, and with those of the group's settings that it takes.

    Raises:
        UsageError: there is no such allocator, or it refuses its arguments.
    """
    factory = cast(Any, resolve("allocator.name", settings.name, BUILT_IN))
    given = {name: getattr(settings, name) for name in TAKEN}
    made = call("allocator.name", factory, given, settings.options)
    if made is not None and not isinstance(made, Allocator):
        raise UsageError(
            f"allocator.name = {settings.name!r} made a {type(made).__name__}: a sparring.allocators.Allocator is "
            f"needed."
        )
    return made


def nobody() -> None:
    """All examples get the attack's own steps."""
