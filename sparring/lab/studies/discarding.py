"""Our own: what an engine without permits loses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparring.lab import figures
from sparring.lab.results import Results
from sparring.lab.studies.settings import CLEAN, MNIST_QUICK, PGD_40, with_seed
from sparring.lab.study import OURS, SIZES, Claim, Column, Point, Size, Study, Table, baseline

STEPS, DEPTH = 600, 12
NOISE = 1.5  # points, of a row on 1,000 images
SYSTEMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # settings, options
    **{
        f"permits, bound {bound}": ({"staleness.max_staleness": bound, "staleness.exchange": False}, {})
        for bound in (8, 5)
    },
    **{
        f"thrown away above {bound}": (
            {"staleness.max_staleness": DEPTH + 1, "staleness.depth": DEPTH, "staleness.exchange": False},
            {"discard_above": bound},
        )
        for bound in (8, 5)
    },
}
EXCHANGE = "permits, in-flight exchange, bound 5"
SYSTEMS[EXCHANGE] = {"staleness.max_staleness": 5}, {}
BASE: dict[str, Any] = {
    **MNIST_QUICK,
    "schedule.name": "constant",
    "optimizer.lr": 0.001,
    "attack.warmup": 0.05,
    "train.epochs": 6,
    "train.max_steps": STEPS,
    "train.batch_size": 8,
    "train.shards_per_step": 16,
    "allocator.name": "bullettrain",
    "staleness.trainer_attacks": "never",
    "workers.count": 64,
    "virtual.attack_example_s": 1e-3,
    "virtual.forward_example_s": 3e-4,
    "virtual.step_example_s": 5e-5,
}
BASE.pop("engine")


def points(size: Size, seeds: Sequence[int]) -> list[Point]:
    """The same training by an engine with permits and by one that throws late work away."""
    return [
        Point("discard", {"system": name, "seed": seed}, with_seed({**BASE, **settings}, seed), options)
        for seed in seeds
        for name, (settings, options) in SYSTEMS.items()
    ]


def _mean(results: Results, figure: str, system: str) -> float:
    return 100 * float(results.mean(figure, system=system))


def _under_trained(results: Results) -> tuple[str, bool]:
    """Boundary examples come too late more often than robust ones."""
    system = "thrown away above 5"
    lost, easy = (_mean(results, f"late_{name}", system) for name in ("boundary", "robust"))
    return f"{lost:.1f} % of the boundary examples, {easy:.1f} % of the robust ones", lost > easy


def _costs(results: Results) -> tuple[str, bool | None]:
    """What that costs in robust accuracy, at as many training steps and under the same bound."""
    permits, thrown = (
        _mean(results, "robust_accuracy", system) for system in ("permits, bound 5", "thrown away above 5")
    )
    agrees = None if abs(baseline(permits) - thrown) <= NOISE else thrown < permits
    return f"{thrown:.1f}, with permits {permits:.1f}", agrees


def _wasted(results: Results) -> tuple[str, bool]:
    """Permits keep nearly all work from being late."""
    permits, thrown = (_mean(results, "late", system) for system in ("permits, bound 5", "thrown away above 5"))
    return f"{permits:.1f} % with permits (made again), {thrown:.1f} % without (lost)", permits < thrown / 2


def _chart(results: Results) -> dict[str, Any]:
    rows = [
        {
            "seconds": record["figures"]["virtual_seconds"],
            "accuracy": 100 * record["figures"]["robust_accuracy"],
            "system": record["at"]["system"],
        }
        for record in results
    ]
    title = "PGD-40 accuracy by time on the virtual clock, each point a run"
    return figures.scatter(
        rows, "seconds", "accuracy", "system", title=title, x_title="virtual seconds", y_title="accuracy, %"
    )


DISCARDING = Study(
    "discarding",
    "ours",
    "permits beside an engine that throws late work away",
    "What does an engine lose that attacks as fast as it can and throws late work away?",
    dict.fromkeys(
        SIZES,
        f"MNIST, 38,400 images, the 16-32-100 network, {STEPS} steps of 16 shards of 8, κ = 8, BulletTrain, ε = 0.3, "
        f"Adam at 0.001. 64 workers on the virtual clock: an example takes 1 ms in an attack step, 0.05 in training. "
        f"Without permits {DEPTH + 1} steps of shards are outstanding. PGD-40 on 1,000 test images.",
    ),
    points,
    tables=(
        Table(
            ("system",),
            (
                CLEAN,
                PGD_40,
                Column("late", "late, %"),
                Column("late_boundary", "of boundary, %"),
                Column("late_robust", "of robust, %"),
                Column("boundary_attacked", "boundary of attacked, %"),
                Column("boundary_trained", "boundary of trained, %"),
                Column("staleness_mean", "staleness, mean", share=False),
                Column("virtual_seconds", "seconds", share=False),
            ),
            "discard",
        ),
    ),
    claims=(
        Claim("boundary examples come too late more often than robust ones", OURS, _under_trained),
        Claim("throwing them away costs robust accuracy at as many steps", OURS, _costs),
        Claim("permits keep most work from being late, and make the rest again", OURS, _wasted),
    ),
    charts={"accuracy": _chart},
)
