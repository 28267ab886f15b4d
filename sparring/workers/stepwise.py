"""Work of another's code, such as an attack of a package, made in steps: it runs on only when it is told to.

The work runs in a thread of its own, but never beside its caller: either of them waits while the other runs. So it is
as if the work were a generator that yields wherever it calls `pause`, however deep in code of others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


class _Abandoned(BaseException):
    """Ends work that is given up. Not an Exception: the code of others must not catch it."""


class Stepwise(Generic[T]):
    """One piece of work, `make(pause)`. The global random state of torch is the caller's in between, and the work's own
    while it runs: neither sees what the other draws."""

    def __init__(self, make: Callable[[Callable[[], None]], T], device: torch.device) -> None:
        self._make, self._device = make, device
        self._turn = threading.Semaphore(0)  # of the work
        self._back = threading.Semaphore(0)  # of the caller
        self._given_up = False
        self._result: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="stepwise", daemon=True)
        self._thread.start()

    def advance(self) -> T | None:
        """Run to the next pause: None; or to the end: the result. An exception of the work is raised here."""
        with _random_state_kept(self._device):
            self._turn.release()
            self._back.acquire()
        if self._error is not None:
            raise self._error
        return self._result[0] if self._result else None

    def close(self) -> None:
        """Give the work up where it is not done: `pause` raises in it."""
        if self._thread.is_alive() and not self._given_up:
            self._given_up = True
            self._turn.release()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        self._turn.acquire()
        try:
            if not self._given_up:
                torch.set_num_threads(torch.get_num_threads())  # a thread has a number of its own under OpenMP
                self._result.append(self._make(self._pause))
        except _Abandoned:
            return
        except BaseException as error:
            self._error = error
        finally:
            self._back.release()

    def _pause(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()  # what was begun is done, not only ordered
        with _random_state_kept(self._device):
            self._back.release()
            self._turn.acquire()
        if self._given_up:
            raise _Abandoned


@contextmanager
def _random_state_kept(device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
