"""The picture of `sparring curves`: robust accuracy against ε and against steps, with 95 % intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparring.errors import SparringError, UsageError

SUFFIX = ".png"


def require_drawable(path: Path) -> None:
    """Find out before minutes of attacks.

    Raises:
        UsageError: it is no PNG file that could be made. SparringError: matplotlib is missing.
    """
    if path.suffix != SUFFIX or not path.expanduser().parent.is_dir():
        raise UsageError(f"--plot {path}: give the path of a {SUFFIX} file in a folder that exists.")
    _matplotlib()


def draw(told: dict[str, Any], title: str, path: Path) -> None:
    """Draw what `Curves.as_dict` tells."""
    figure = _matplotlib().Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    trained = told["trained_epsilon"]
    _curve(left, told["by_epsilon"], "epsilon", f"{told['by_epsilon'][0]['steps']} steps")
    left.axvline(trained, color="grey", linestyle=":", label=f"trained, ε = {trained:.4g}")
    left.set(xlabel=f"ε ({told['norm']})", ylabel="robust accuracy, %", ylim=(-3, 103))
    _curve(right, told["by_steps"], "steps", f"PGD, ε = {trained:.4g}")
    if told["black_box"] is not None:
        box = told["black_box"]
        low, high = (100 * each for each in box["robust_interval"])
        right.axhline(100 * box["robust_accuracy"], color="tab:orange", linestyle="--", label=box["attack"])
        right.axhspan(low, high, color="tab:orange", alpha=0.15, linewidth=0)
    right.set_xscale("log")
    steps = [point["steps"] for point in told["by_steps"]]
    right.set_xticks(steps, [str(each) for each in steps], minor=False)
    right.set_xticks([], minor=True)
    right.set_xlabel("attack steps")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    masked = "gradients look masked" if told["warnings"] else "nothing looks masked"
    figure.suptitle(f"{title}: {told['samples']} test examples, 95 % intervals; {masked}")
    figure.savefig(path.expanduser(), dpi=120)


def _curve(axes: Any, points: list[dict[str, Any]], along: str, label: str) -> None:
    at = [point[along] for point in points]
    shares = [100 * point["robust_accuracy"] for point in points]
    reach = [
        [share - 100 * point["robust_interval"][0] for share, point in zip(shares, points, strict=True)],
        [100 * point["robust_interval"][1] - share for share, point in zip(shares, points, strict=True)],
    ]
    reach = [[max(0.0, each) for each in side] for side in reach]  # rounding may leave -1e-15
    axes.errorbar(at, shares, yerr=reach, marker="o", capsize=3, label=label)


def _matplotlib() -> Any:
    """Without pyplot: no window, no global state."""
    try:
        import matplotlib.figure
    except ImportError as error:
        raise SparringError("--plot: matplotlib is not installed. pip install 'sparring[plots]'.") from error
    return matplotlib.figure
