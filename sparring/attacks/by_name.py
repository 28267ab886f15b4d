"""Make the attack that a recipe names."""

from __future__ import annotations

import inspect
from typing import Any, cast

from sparring.attacks.attack import FIXED_STARTS, PGD, Attack
from sparring.attacks.augmix import AugMix, Threat
from sparring.config import AttackSettings, AugmixSettings
from sparring.errors import UsageError
from sparring.objectives import Objective
from sparring.plugins import call, is_users, require_as_option, require_taken, resolve

BUILT_IN = {
    "pgd": "sparring.attacks.attack:PGD",
    "fgsm": "sparring.attacks.fgsm:FGSM",
    "fgsm-rs": "sparring.attacks.fgsm:FGSMRS",
    "n-fgsm": "sparring.attacks.fgsm:NFGSM",
    "augmix": "sparring.attacks.augmix:AugMix",
}
TAKEN = ("epsilon", "norm", "steps", "step_size", "restarts", "noise")
STRICT = ("norm", "step_size", "start", "clamp_start", "loss")  # refused if set and the attack does not take them


def attack_of(settings: AttackSettings, augmix: AugmixSettings, objective: Objective) -> Threat:
    """The attack of the settings, with the full ε.

    For start and loss, "auto" means the default of the attack, or of the objective if the attack has none. The user's
    own factory is called with `attack.options`, and with those of epsilon, norm, steps, step_size, restarts, noise,
    start and loss that are among its parameters.

    Raises:
        UsageError: there is no such attack, it refuses its arguments, or it does not take a setting that is set.
    """
    factory = cast(Any, resolve("attack.name", settings.name, BUILT_IN))
    default = AttackSettings.model_fields
    strict = {name: (getattr(settings, name), default[name].default) for name in STRICT}
    require_taken("attack.name", settings.name, factory, strict)
    given: dict[str, Any] = {name: getattr(settings, name) for name in TAKEN}
    if is_users(factory):
        require_as_option("attack.name", settings.name, factory, {"clamp_start": strict["clamp_start"]})
    else:
        given |= {"augmix": augmix, "clamp_start": _clamp_start(settings, factory)}
    left_open = _left_open(settings, factory, objective)
    _require_different_starts(settings, left_open["start"])
    made = call("attack.name", factory, {**given, **left_open}, settings.options)
    if not isinstance(made, Attack | AugMix):
        raise UsageError(
            f"attack.name = {settings.name!r} made a {type(made).__name__}: a sparring.attacks.Attack is needed."
        )
    return made


def _require_different_starts(settings: AttackSettings, start: Any) -> None:
    """Refuse several attempts from the same point: they would be equal, at a multiple of the cost."""
    if settings.restarts > 1 and (start in FIXED_STARTS or settings.start == "last"):
        raise UsageError(
            f"attack.restarts = {settings.restarts} with attack.name = {settings.name!r} and attack.start = "
            f"{settings.start!r}: all restarts would begin at the same point. Set attack.restarts to 1, or "
            f"attack.start to 'uniform'."
        )


def threat_of(settings: AttackSettings, attack: Threat) -> Attack:
    """The attack whose ball is used in evaluation: the trained one, or for AugMix PGD with the settings' ε and norm."""
    return attack if isinstance(attack, Attack) else PGD(settings.epsilon, norm=settings.norm)


def _left_open(settings: AttackSettings, factory: Any, objective: Objective) -> dict[str, Any]:
    """Start and loss: as set, else the attack's default, else the objective's."""
    chosen = {"start": _start(settings), "loss": None if settings.loss == "auto" else settings.loss}
    of_objective = {"start": objective.attack_start, "loss": objective.attack_loss}
    parameters = inspect.signature(factory).parameters
    for name, value in chosen.items():
        if value is None and name in parameters:
            own = parameters[name].default
            chosen[name] = of_objective[name] if own in (None, inspect.Parameter.empty) else own
    return chosen


def _clamp_start(settings: AttackSettings, factory: Any) -> bool | None:
    """As set, else the attack's default."""
    parameter = inspect.signature(factory).parameters.get("clamp_start")
    return parameter.default if settings.clamp_start is None and parameter is not None else settings.clamp_start


def _start(settings: AttackSettings) -> Any:
    if settings.start == "previous":
        return "given"
    return None if settings.start in ("auto", "last") else settings.start
