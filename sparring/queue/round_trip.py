"""Measure round trips of payloads to a server on this machine: python -m sparring.queue.round_trip BYTES [BYTES ...]"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable

from sparring.errors import SparringError
from sparring.machine.timing import median_seconds
from sparring.queue.server import EmbeddedServer
from sparring.queue.sizing import MEMORY_SLACK_BYTES


def round_trip_s(size_bytes: int) -> float:
    """Median seconds of one SET and one GET.

    Raises:
        SparringError: no server can be started on this machine.
    """
    payload = bytes(size_bytes)
    with EmbeddedServer(maxmemory=MEMORY_SLACK_BYTES + 4 * size_bytes) as server, server.client() as client:

        def round_trip() -> None:
            client.set("payload", payload)
            client.get("payload")

        return median_seconds(round_trip)


def main() -> None:
    """Print the seconds of each on standard output; exit with 1 if no server can be started."""
    print_measured(lambda: (round_trip_s(int(size)) for size in sys.argv[1:]))


def print_measured(measure: Callable[[], Iterable[float]]) -> None:
    """Print numbers on standard output, a line each; exit with 1 and the reason if no server can be started."""
    try:
        for number in measure():
            sys.stdout.write(f"{number}\n")
    except SparringError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
