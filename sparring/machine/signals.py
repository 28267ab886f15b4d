"""Ctrl-C, SIGTERM and SIGHUP stop a run in good order, and a process of a pool ends with the one that started it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def stopping_on_signals(stop: Callable[[str], None]) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP request a stop after the current step; a second SIGINT interrupts at once.

    A terminal that goes away sends SIGHUP. Where it is ignored, as under nohup, it stays ignored.
    """
    if not _in_main_thread():
        yield
        return

    def handle(number: int, frame: object) -> None:
        stop("interrupted")
        signal.signal(signal.SIGINT, signal.default_int_handler)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP interrupt as Ctrl-C does, by a KeyboardInterrupt, where nothing else handles them."""
    with signals_left_alone():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if _in_main_thread() and signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, signal.default_int_handler)
        yield


@contextmanager
def signals_left_alone() -> Iterator[None]:
    """Whatever is set inside, such as Ray's own handler, signals are handled as before afterwards."""
    if not _in_main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # it is not Python's
                signal.signal(number, handler)


def handlers_set_again() -> None:
    """Set Python's handlers anew: Ray's core, where it shuts down, puts the default in SIGTERM's place unseen."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if _in_main_thread() and callable(handler := signal.getsignal(number)):
            signal.signal(number, handler)


def _in_main_thread() -> bool:
    """Python lets no other thread set handlers."""
    return threading.current_thread() is threading.main_thread()


def end_with_parent() -> None:
    """For a process of a pool: end when the process that started it has died. Otherwise it waits for work for ever."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
