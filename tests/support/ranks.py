"""Another rank of a group of two, in a process of its own."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.waiting import TIMEOUT_S


@contextmanager
def beside(work: Callable[..., Any], *arguments: Any) -> Iterator[None]:
    """Run `work` in another process meanwhile; it must end without an error."""
    context = multiprocessing.get_context("spawn")
    said = context.SimpleQueue()
    process = context.Process(target=_tell, args=(said, work, arguments), daemon=True)
    process.start()
    try:
        yield
        process.join(TIMEOUT_S)
        assert process.exitcode == 0, said.get() if not said.empty() else f"exit status {process.exitcode}"
    finally:
        process.kill()


def _tell(said: Any, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        work(*arguments)
    except BaseException:
        said.put(traceback.format_exc())
        raise
