"""Errors that a user can act on. Every message names the setting, its value and the remedy."""

from __future__ import annotations

from pathlib import Path


class SparringError(Exception):
    """A failure that a user can act on. The command prints its message in one line and exits with 1."""

    exit_code = 1
    run: Path | None = None  # folder of the run that failed, if there is one


class UsageError(SparringError, ValueError):
    """The request itself is wrong, such as an unknown setting or a value out of bounds. The command exits with 2."""

    exit_code = 2


class RollBack(SparringError):
    """The current weights must not be used: training continues from earlier good weights, or ends."""


class NonFinite(RollBack):
    """The loss, its gradient or a weight is infinite or NaN."""


class Overfitted(RollBack):
    """Robust accuracy on a training batch has fallen further than the guard allows.

    `gradients`: gradient evaluations that the check needed.
    """

    def __init__(self, message: str, gradients: int = 0) -> None:
        super().__init__(message)
        self.gradients = gradients
