"""One job at a time, in a thread beside the loop that starts it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from typing import Generic, TypeVar

T = TypeVar("T")


class Background(Generic[T]):
    """Runs one job after the other. `settle` gives what a job returned or raised; only then may the next one start."""

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._job: Future[T] | None = None

    def start(self, job: Callable[[], T]) -> None:
        """Run `job` in the thread.

        Raises:
            RuntimeError: the job before has not been settled.
        """
        if self._job is not None:
            raise RuntimeError("a background job was started before the one before was settled")
        self._job = self._thread.submit(job)

    def settle(self, *, wait: bool = True, timeout_s: float | None = None) -> Future[T] | None:
        """The job that has ended; None: none was started, or it is still running and not waited for.

        Raises:
            TimeoutError: it did not end within `timeout_s`, and is given up.
        """
        job = self._job
        if job is None or not (wait or job.done()):
            return None
        self._job = None
        if wait_for([job], timeout_s).not_done:
            raise TimeoutError
        return job

    def close(self, timeout_s: float) -> None:
        """Wait for a running job; one that does not end within `timeout_s` is abandoned."""
        if self._job is not None:
            wait_for([self._job], timeout_s)
        self._thread.shutdown(wait=False)
