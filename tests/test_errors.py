"""An error says with which code the command ends, and loses nothing between two processes."""

from __future__ import annotations

import errno
import pickle
from pathlib import Path

import pytest
import torch

from sparring.errors import (
    NonFinite,
    Overfitted,
    RollBack,
    SparringError,
    UsageError,
    file_failure,
    is_out_of_memory,
    last_line,
    note_run,
    run_of,
)

EVERY_KIND = (SparringError, UsageError, RollBack, NonFinite, Overfitted)


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_only_a_wrong_request_ends_with_2(kind: type[SparringError]) -> None:
    assert kind("attack.steps = 0: too few.").exit_code == (2 if kind is UsageError else 1)


def test_a_wrong_request_is_a_value_error_to_whoever_calls_from_python() -> None:
    assert issubclass(UsageError, ValueError) and not issubclass(SparringError, ValueError)


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_an_error_of_another_process_says_the_same_here(kind: type[SparringError]) -> None:
    error = kind("robust accuracy has fallen to 0.1")
    error.run = Path("runs/mine")
    there = pickle.loads(pickle.dumps(error))
    assert (type(there), str(there), there.run) == (kind, "robust accuracy has fallen to 0.1", Path("runs/mine"))


def test_what_it_took_to_notice_overfitting_is_not_lost_either() -> None:
    there = pickle.loads(pickle.dumps(Overfitted("robust accuracy has fallen", gradients=640)))
    assert there.gradients == 640 and isinstance(there, RollBack)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.ENOSPC, "x"), "w: No space left on device. Free space there, or use a folder on another disk."),
        (
            OSError(errno.EROFS, "x"),
            "w: Read-only file system. Let this user read and write it, or use another folder.",
        ),
        (PermissionError(errno.EACCES, "x", "v"), "v: Permission denied. Let this user read and write it, or use"),
        (RuntimeError("I/O error: it is full (os error 28)\nmore"), "w: No space left on device. Free space there, or"),
        (OSError(errno.EIO, "x"), "w: Input/output error. Check that it is there and can be read and written."),
        (EOFError("cut short\nat 7"), "w: cut short. Check that it is there and can be read and written."),
    ],
)
def test_an_error_of_the_disk_is_one_sentence_with_the_file_and_the_remedy(error: Exception, sentence: str) -> None:
    assert str(file_failure(error, "w")).startswith(sentence)


def test_the_last_line_says_why_also_where_there_is_no_line() -> None:
    assert last_line(ValueError("The actor died.\n\tclass_name: Trainer\n  The node is gone.\n")) == "The node is gone."
    assert last_line(ValueError("\n")) == "ValueError"


@pytest.mark.parametrize("error", [ValueError("a user's loss failed"), SparringError("a sentence")])
def test_any_error_knows_the_run_that_failed_with_it(error: Exception) -> None:
    assert run_of(error) is None
    note_run(error, Path("runs/mine"))
    assert run_of(error) == Path("runs/mine")


@pytest.mark.parametrize(
    ("error", "it_is"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you"), True),
        (RuntimeError("shape mismatch"), False),
    ],
)
def test_a_lack_of_memory_is_known(error: Exception, it_is: bool) -> None:
    assert is_out_of_memory(error) == it_is
