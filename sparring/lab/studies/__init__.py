"""The studies by name, in the order of the papers."""

from __future__ import annotations

from sparring.errors import UsageError
from sparring.lab.studies import (
    attacker_power,
    augmix,
    bullettrain,
    devices,
    discarding,
    exchange,
    fast,
    phases,
    pruning,
    staleness,
)
from sparring.lab.study import Study

STUDIES = {
    each.name: each
    for each in (
        *(attacker_power.ATTACKER_POWER, staleness.STALENESS, staleness.CYCLES, staleness.LONG, devices.SPEED_UP),
        *(bullettrain.WHO_NEEDS_STEPS, bullettrain.CLASSES, bullettrain.METHODS, bullettrain.SENSITIVITY),
        augmix.AUGMIX,
        *(fast.STARTS, fast.MNIST, fast.TIME, phases.PHASES),
        *(pruning.PRUNING, pruning.DENSITY),
        exchange.EXCHANGE,
        discarding.DISCARDING,
    )
}


def study_named(name: str) -> Study:
    """The study.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in STUDIES:
        raise UsageError(f"{name}: no such study. There are: {', '.join(STUDIES)}; all does each of them.")
    return STUDIES[name]
