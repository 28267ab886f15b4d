"""Whether Ray itself still works: its control server (GCS) and this host's node process (raylet).

Without them Ray ends the driver's process after a minute, without a word.
"""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress

import ray

CHECK_EVERY_S = 2.0
GONE_AFTER_S = 10.0  # a control server that is restarted answers again by then
CONNECT_S = 1.0


class Health:
    """Asks at most every CHECK_EVERY_S. `problem`: what no longer works; empty: nothing."""

    def __init__(self) -> None:
        context = ray.get_runtime_context()
        host, _, port = context.gcs_address.rpartition(":")
        self.address, self.node = (host.strip("[]"), int(port)), context.get_node_id()
        self.problem = ""
        self._asked_at = self._answered_at = time.monotonic()
        self._asking: threading.Thread | None = None
        self._alive: bool | None = None  # this host's node process, by the last answer; None: there is none yet

    def check(self, at_once: bool = False) -> str:
        """`problem`, asked anew where that is due, or at once."""
        now = time.monotonic()
        if not self.problem and (at_once or now - self._asked_at >= CHECK_EVERY_S):
            self._asked_at = now
            self.problem = self._ask(now)
        return self.problem

    def _ask(self, now: float) -> str:
        try:
            socket.create_connection(self.address, timeout=CONNECT_S).close()
        except OSError as error:
            return self._silent(now, str(error))
        if self._asking is None or not self._asking.is_alive():
            self._alive, self._asking = None, threading.Thread(target=self._look, name="ray-health", daemon=True)
            self._asking.start()
        self._asking.join(CONNECT_S)
        if self._alive is None:  # a control server whose process is stopped still takes connections
            return self._silent(now, "it takes connections")
        self._answered_at = now
        return "" if self._alive else "Ray's process on this host (raylet) has died"

    def _look(self) -> None:
        """Ask the control server, which may take for ever, or fail."""
        with suppress(Exception):
            self._alive = any(node["Alive"] for node in ray.nodes() if node["NodeID"] == self.node)

    def _silent(self, now: float, how: str) -> str:
        silent, (host, port) = now - self._answered_at, self.address
        if silent < GONE_AFTER_S:
            return ""
        return f"Ray's control server (GCS) at {host}:{port} has not answered for {silent:.0f} s ({how})"
