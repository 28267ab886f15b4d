"""What can go wrong in a way the user can mend. Every message names the setting, the value and the remedy."""

from __future__ import annotations


class SparringError(Exception):
    """A failure that a user can act on; the command prints its one sentence and exits with 1."""

    exit_code = 1


class UsageError(SparringError):
    """The request itself is wrong (unknown setting, value out of bounds); the command exits with 2."""

    exit_code = 2
