"""Waiting for what another thread, process or host does: the one place of the tests that sleeps between two looks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

TIMEOUT_S = 150.0


def wait_for(what: str, condition: Callable[[], Any], timeout_s: float = TIMEOUT_S, pause_s: float = 0.05) -> Any:
    """The first true value of `condition`, looked at every `pause_s`.

    Raises:
        AssertionError: there was none within `timeout_s`.
    """
    limit = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < limit, f"{what}: not within {timeout_s:g} s"
        time.sleep(pause_s)
    return found
