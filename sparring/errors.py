"""What can go wrong in a way the user can mend. Every message names the setting, the value and the remedy."""

from __future__ import annotations

from pathlib import Path


class SparringError(Exception):
    """A failure that a user can act on; the command prints its one sentence and exits with 1."""

    exit_code = 1
    run: Path | None = None  # the folder of the run that failed, where there is one


class UsageError(SparringError, ValueError):
    """The request itself is wrong (unknown setting, value out of bounds); the command exits with 2."""

    exit_code = 2


class RollBack(SparringError):
    """The present weights are not to be used: training goes on from good ones, or ends."""


class NonFinite(RollBack):
    """The loss, its gradient or a weight is not a number."""


class Overfitted(RollBack):
    """Robust accuracy on a training batch has fallen further than its guard allows; `gradients`: what that took."""

    def __init__(self, message: str, gradients: int = 0) -> None:
        super().__init__(message)
        self.gradients = gradients
