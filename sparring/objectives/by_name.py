"""Make the objective that a recipe names."""

from __future__ import annotations

from typing import Any, cast

from sparring.config import AugmixSettings, ObjectiveSettings
from sparring.errors import UsageError
from sparring.objectives.objective import Objective
from sparring.plugins import call, is_users, require_as_option, require_taken, resolve

BUILT_IN = {
    "pgd-at": "sparring.objectives.methods:PGDAT",
    "trades": "sparring.objectives.methods:TRADES",
    "mart": "sparring.objectives.methods:MART",
    "augmix": "sparring.objectives.augmix:AugMixConsistency",
    "grad-align": "sparring.objectives.grad_align:GradAlign",
}


def objective_of(settings: ObjectiveSettings, augmix: AugmixSettings, *, passes: str) -> Objective:
    """The objective of the settings; `passes` is objective.passes with "auto" resolved.

    A factory of your own is called with `objective.options`, and with those of beta, passes, label_smoothing and
    attacked_first (whether AWP is on) that it takes.

    Raises:
        UsageError: there is no such objective, it refuses its arguments, or does not take what is set.
    """
    factory = cast(Any, resolve("objective.name", settings.name, BUILT_IN))
    smoothing = {"label_smoothing": (settings.label_smoothing, 0.0)}
    require_taken("objective.name", settings.name, factory, smoothing)
    given = {"beta": settings.beta, "passes": passes, "label_smoothing": settings.label_smoothing}
    given |= {"attacked_first": settings.awp_gamma > 0}
    if is_users(factory):
        default = ObjectiveSettings.model_fields["align_lambda"].default
        require_as_option("objective.name", settings.name, factory, {"align_lambda": (settings.align_lambda, default)})
    else:
        given |= {"augmix": augmix, "align_lambda": settings.align_lambda}
    made = call("objective.name", factory, given, settings.options)
    if not isinstance(made, Objective):
        raise UsageError(
            f"objective.name = {settings.name!r} made a {type(made).__name__}: a sparring.objectives.Objective is "
            f"needed."
        )
    return made
