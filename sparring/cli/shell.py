"""What every command shares: its common arguments, and how it speaks. Data go to standard output, the rest to
standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

RunPath = Annotated[Path, typer.Argument(help="A run's folder, as `train` printed it last.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
SAID_EVERY_S = 5.0
MATTERS_FIRST = (
    *("robust_accuracy", "robust_interval", "clean_accuracy", "clean_interval", "attack", "samples"),
    *("ema_robust_accuracy", "ema_robust_interval", "ema_clean_accuracy", "ema_clean_interval"),
    *("seconds", "examples_per_second", "staleness_mean", "staleness_max", "max_staleness"),
)


def fail(message: str, code: int) -> None:
    """One line on standard error, then the exit code."""
    sys.stderr.write(f"sparring: {message}\n")
    sys.exit(code)


def out(text: str) -> None:
    """Data for whoever reads standard output."""
    sys.stdout.write(text.rstrip("\n") + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """A sentence for whoever watches."""
    sys.stderr.write(text + "\n")


def now_and_then() -> Callable[[str], None]:
    """Progress as sentences, one every few seconds."""
    told = [0.0]

    def say(text: str) -> None:
        if time.monotonic() - told[0] > SAID_EVERY_S:
            told[0] = time.monotonic()
            note(text)

    return say


def rows(values: dict[str, Any]) -> list[dict[str, object]]:
    """One row a value, for a table: what matters first; without what is zero or was not measured."""
    order = {key: place for place, key in reversed([*enumerate((*MATTERS_FIRST, *values))])}
    shown = [key for key in sorted(values, key=lambda key: order[key]) if values[key] or _is_accuracy(key, values[key])]
    return [{"": key.replace("_", " "), "value": _shown(key, values[key])} for key in shown]


def _is_accuracy(key: str, value: Any) -> bool:
    """An accuracy of 0 is a figure too."""
    return key.endswith("accuracy") and value is not None


def _shown(key: str, value: Any) -> str:
    if key.endswith("interval"):
        return " to ".join(f"{100 * share:.2f} %" for share in value)
    if isinstance(value, float):
        return f"{100 * value:.2f} %" if key.endswith("accuracy") else f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {count}" for name, count in value.items())
    return str(value)
