"""Queues that tests open without the folder of a run."""

from __future__ import annotations

from sparring.queue.transport import Transport


def opened(transport: Transport, above: int = 0) -> int:
    """Open the queue under the next fence above the server's and `above`; returns it."""
    fence = max(transport.current_fence(), above) + 1
    transport.open(fence)
    return fence
