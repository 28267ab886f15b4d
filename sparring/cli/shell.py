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
    """One row a value, for a table."""
    return [{"": key.replace("_", " "), "value": _shown(key, value)} for key, value in values.items()]


def _shown(key: str, value: Any) -> str:
    if value is None:
        return "not measured"
    if key.endswith("interval"):
        return " to ".join(f"{100 * share:.2f} %" for share in value)
    if isinstance(value, float):
        return f"{100 * value:.2f} %" if key.endswith("accuracy") else f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {count}" for name, count in value.items()) or "none"
    return str(value)
