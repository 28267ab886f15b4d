"""Arguments and output that all commands share. Results go to standard output, all else to standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from sparring.errors import file_failure

RunPath = Annotated[Path, typer.Argument(help="A run folder; `sparring train` prints its path in the last line.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
Recipe = Annotated[Path | None, typer.Argument(help="A recipe (TOML file); by default the settings of the demo.")]
HINT = "Change any setting by --GROUP.NAME VALUE, for example --attack.steps 10 or --workers 4."
NOTE_EVERY_S = 5.0
FIRST_ROWS = (
    *("robust_accuracy", "robust_interval", "clean_accuracy", "clean_interval", "attack", "samples", "drawn", "method"),
    *("ema_robust_accuracy", "ema_robust_interval", "ema_clean_accuracy", "ema_clean_interval"),
    *("seconds", "examples_per_second", "staleness_mean", "staleness_max", "max_staleness"),
)


def fail(message: str, code: int) -> None:
    """Print one line on standard error and exit with `code`."""
    sys.stderr.write(f"sparring: {message}\n")
    sys.exit(code)


def out(text: str) -> None:
    """Print a result on standard output.

    Raises:
        SparringError: it is full, or nobody reads it any more.
    """
    try:
        sys.stdout.write(text.rstrip("\n") + "\n")
        sys.stdout.flush()
    except OSError as error:
        raise file_failure(error, "standard output") from error


def note(text: str) -> None:
    """Print a remark on standard error."""
    sys.stderr.write(text + "\n")


def periodic_notes() -> Callable[[str], None]:
    """A progress callback that prints a sentence every few seconds and drops the others."""
    printed_at = [0.0]

    def progress(text: str) -> None:
        if time.monotonic() - printed_at[0] > NOTE_EVERY_S:
            printed_at[0] = time.monotonic()
            note(text)

    return progress


def rows(values: dict[str, Any]) -> list[dict[str, object]]:
    """One table row per value, the most important first. Values that are zero or were not measured are left out."""
    order = {key: position for position, key in reversed([*enumerate((*FIRST_ROWS, *values))])}
    shown = [key for key in sorted(values, key=lambda key: order[key]) if values[key] or _is_accuracy(key, values[key])]
    return [{"": key.replace("_", " "), "value": _shown(key, values[key])} for key in shown]


def _is_accuracy(key: str, value: Any) -> bool:
    """An accuracy is shown even if it is 0."""
    return key.endswith("accuracy") and value is not None


def _shown(key: str, value: Any) -> str:
    if key.endswith("interval"):
        return " to ".join(f"{100 * share:.2f} %" for share in value)
    if isinstance(value, float):
        return f"{100 * value:.2f} %" if key.endswith("accuracy") else f"{value:.4g}"
    if isinstance(value, list | tuple):
        return "\n".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{name}: {count}" for name, count in value.items())
    return str(value)
