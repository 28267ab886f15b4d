"""Errors that a user can act on. Every message names the setting, its value and the remedy."""

from __future__ import annotations

import os
import re
from errno import EACCES, EDQUOT, EFBIG, ENOSPC, EPERM, EROFS
from pathlib import Path

FULL, FORBIDDEN = (ENOSPC, EDQUOT, EFBIG), (EROFS, EACCES, EPERM)


class SparringError(Exception):
    """A failure that a user can act on. The command prints its message in one line and exits with 1."""

    exit_code = 1
    run: Path | None = None  # folder of the run that failed, if there is one


def note_run(error: BaseException, folder: Path) -> None:
    """Say of any error or interrupt whose run has ended; `run_of` tells."""
    error.__dict__["run"] = folder


def run_of(error: BaseException) -> Path | None:
    """The folder of the run that failed with this error, if there is one."""
    found: Path | None = getattr(error, "run", None)
    return found


class Interrupted(SparringError):
    """Ctrl-C, SIGTERM or SIGHUP has ended the command, which exits with 130."""

    exit_code = 130


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


def file_failure(error: Exception, path: str | Path | None = None) -> SparringError:
    """The error of a disk, or of a library that reads or writes a file, as one sentence with the file and a remedy.

    path: the file that is meant, where `error` does not name one.
    """
    name = getattr(error, "filename", None) or path or "reading or writing"
    of_library = re.search(r"\(os error (\d+)\)", str(error))
    number = int(of_library[1]) if of_library else getattr(error, "errno", None)
    reason = os.strerror(number) if number else next(iter(str(error).splitlines()), type(error).__name__)
    remedy = "Check that it is there and can be read and written."
    if number in FULL:
        remedy = "Free space there, or use a folder on another disk."
    elif number in FORBIDDEN:
        remedy = "Let this user read and write it, or use another folder."
    return SparringError(f"{name}: {reason}. {remedy}")


def is_out_of_memory(error: Exception) -> bool:
    """Whether Python, or torch on a GPU or a CPU, could not get the memory that it asked for."""
    of_torch = type(error).__name__ == "OutOfMemoryError"  # by name: not every command needs torch
    return isinstance(error, MemoryError) or of_torch or "can't allocate memory" in str(error)


def last_line(error: Exception) -> str:
    """What a long message of Ray says in the end: the reason."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
