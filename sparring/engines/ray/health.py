"""Whether Ray itself still works: its control server (GCS) and this host's node process (raylet).

Without them Ray ends the driver's process after a minute, without a word.
"""

from __future__ import annotations

import socket
import time

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

    def check(self) -> str:
        """`problem`, asked anew where that is due."""
        now = time.monotonic()
        if not self.problem and now - self._asked_at >= CHECK_EVERY_S:
            self._asked_at = now
            self.problem = self._ask(now)
        return self.problem

    def _ask(self, now: float) -> str:
        try:
            socket.create_connection(self.address, timeout=CONNECT_S).close()
        except OSError as error:
            silent = now - self._answered_at
            where = f"{self.address[0]}:{self.address[1]}"
            if silent < GONE_AFTER_S:
                return ""
            return f"Ray's control server (GCS) at {where} has not answered for {silent:.0f} s ({error})"
        self._answered_at = now
        alive = any(node["Alive"] for node in ray.nodes() if node["NodeID"] == self.node)
        return "" if alive else "Ray's process on this host (raylet) has died"
