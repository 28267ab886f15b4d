"""Bhat et al. 2018: how much faster more devices make a run, on the virtual clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sparring.lab import figures
from sparring.lab.results import Results
from sparring.lab.studies.settings import BHAT
from sparring.lab.study import SIZES, Claim, Column, Point, Size, Study, Table

DEVICES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16)
SPLIT = "as explain --devices proposes"
SYSTEMS: dict[str, dict[str, Any]] = {
    "as in the paper": {
        "staleness.trainer_attacks": "never",
        "staleness.publish_every": 100,
        "staleness.max_staleness": 200,
    },
    "trainer attacks in its spare time": {"staleness.trainer_attacks": "auto", "staleness.max_staleness": 4},
    SPLIT: {"staleness.max_staleness": 4},
}


def device_points(size: Size, seeds: Sequence[int]) -> list[Point]:
    """Speed-up by devices on the virtual clock, where a training step takes as long as an attack step."""
    base = {
        "attack.steps": 8,
        "train.batch_size": 128,
        "virtual.attack_example_s": 1e-2 / 128,
        "virtual.step_example_s": 1e-2 / 128,
        "virtual.jitter": 0.05,
        "train.seed": 0,
    }
    return [
        Point(
            "clock",
            {"system": name, "devices": count},
            {**base, **settings, "workers.count": count - 1},
            {"split": True} if name == SPLIT else {},
        )
        for name, settings in SYSTEMS.items()
        for count in DEVICES
    ]


def _speed_up(system: str, devices: int) -> Callable[[Results], float]:
    return lambda results: float(results.mean("speed_up", system=system, devices=devices))


def _five(results: Results) -> tuple[str, bool]:
    seven, eight = (_speed_up("as in the paper", devices)(results) for devices in (7, 8))
    return f"{seven:.1f} with 7, {eight:.1f} with 8", abs(eight - 5) <= 1


def _two(results: Results) -> tuple[str, bool]:
    paper, ours = (_speed_up(system, 2)(results) for system in list(SYSTEMS)[:2])
    return f"{paper:.2f} with two devices, {ours:.2f} where the trainer attacks, too", 1.5 <= paper < 2


def _flat(results: Results) -> tuple[str, bool]:
    values = {count: _speed_up("as in the paper", count)(results) for count in (7, 9, 16)}
    return ", ".join(f"{value:.1f} with {count}" for count, value in values.items()), values[9] <= values[7] * 1.1


def _device_chart(results: Results) -> dict[str, Any]:
    rows = [
        {"devices": r["at"]["devices"], "speed": r["figures"]["speed_up"], "system": r["at"]["system"]} for r in results
    ]
    rows += [{"devices": count, "speed": count, "system": "linear"} for count in DEVICES]
    title = "Speed-up by devices, on the virtual clock"
    return figures.lines(
        rows, "devices", "speed", "system", title=title, x_title="devices", y_title="speed-up", top=None
    )


SPEED_UP = Study(
    "devices",
    BHAT,
    "Fig. 9",
    "How much faster do more devices make a run?",
    dict.fromkeys(
        SIZES,
        "The virtual clock: an attack step and a training step take 10 ms for 128 examples, κ = 8, latencies 1 ms, "
        "jitter 5 %. Examples a second alone: what staleness costs is not in them.",
    ),
    device_points,
    tables=(
        Table(
            ("system", "devices"),
            (
                Column("speed_up", "speed-up", share=False, digits=2),
                Column("staleness", "staleness, mean", share=False, digits=1),
            ),
            "clock",
        ),
    ),
    claims=(
        Claim("about five times faster with 7 and 8 devices", "nearly 5 with 7, over 5 with 8", _five),
        Claim("with two devices slightly worse than linear: the trainer waits", "seen in Fig. 9", _two),
        Claim("flat from 7 devices on", "nearly 5 with 7, over 5 with 8", _flat),
    ),
    charts={"speed-up": _device_chart},
)
