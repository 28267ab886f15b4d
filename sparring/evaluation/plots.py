"""The plot of `sparring curves`: robust accuracy by ε and by number of steps, with 95 % intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparring.errors import SparringError, UsageError
from sparring.runs import writing

SUFFIX = ".png"


def require_drawable(path: Path) -> None:
    """Check before the attacks, which take minutes, that the plot can be written.

    Raises:
        UsageError: not a PNG file, or no such folder. SparringError: matplotlib is missing.
    """
    if path.suffix != SUFFIX or not path.expanduser().parent.is_dir():
        raise UsageError(f"--plot {path}: give the path of a {SUFFIX} file in an existing folder.")
    _matplotlib()


def draw(result: dict[str, Any], title: str, path: Path) -> None:
    """Draw the result of `Curves.as_dict`."""
    figure = _matplotlib().Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    trained = result["trained_epsilon"]
    _curve(left, result["by_epsilon"], "epsilon", f"{result['by_epsilon'][0]['steps']} steps")
    left.axvline(trained, color="grey", linestyle=":", label=f"trained, ε = {trained:.4g}")
    left.set(xlabel=f"ε ({result['norm']})", ylabel="robust accuracy, %", ylim=(-3, 103))
    _curve(right, result["by_steps"], "steps", f"PGD, ε = {trained:.4g}")
    black_box = result["black_box"]
    if black_box is not None:
        low, high = (100 * each for each in black_box["robust_interval"])
        right.axhline(100 * black_box["robust_accuracy"], color="tab:orange", linestyle="--", label=black_box["attack"])
        right.axhspan(low, high, color="tab:orange", alpha=0.15, linewidth=0)
    right.set_xscale("log")
    steps = [point["steps"] for point in result["by_steps"]]
    right.set_xticks(steps, [str(each) for each in steps], minor=False)
    right.set_xticks([], minor=True)
    right.set_xlabel("attack steps")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    masked = result["masking"]["verdict"] == "masked"
    verdict = "gradients are probably masked" if masked else "no sign of masked gradients"
    figure.suptitle(f"{title}: {result['samples']} test examples, 95 % intervals; {verdict}")
    with writing(path.expanduser()):
        figure.savefig(path.expanduser(), dpi=120)


def _curve(axes: Any, points: list[dict[str, Any]], along: str, label: str) -> None:
    at = [point[along] for point in points]
    shares = [100 * point["robust_accuracy"] for point in points]
    errors = [
        [share - 100 * point["robust_interval"][0] for share, point in zip(shares, points, strict=True)],
        [100 * point["robust_interval"][1] - share for share, point in zip(shares, points, strict=True)],
    ]
    errors = [[max(0.0, each) for each in side] for side in errors]  # rounding may leave -1e-15
    axes.errorbar(at, shares, yerr=errors, marker="o", capsize=3, label=label)


def _matplotlib() -> Any:
    """matplotlib without pyplot: no window, no global state."""
    try:
        import matplotlib.figure
    except ImportError as error:
        raise SparringError("--plot: matplotlib is not installed. pip install 'sparring[plots]'.") from error
    return matplotlib.figure
