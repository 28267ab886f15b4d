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
SETTLE_S = 0.2


def control_server() -> tuple[str, int]:
    """Host and port of the control server of the Ray that this process is connected to."""
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    return host.strip("[]"), int(port)


def refusal(address: tuple[str, int]) -> str:
    """Why nobody takes a connection there; empty: somebody does."""
    try:
        socket.create_connection(address, timeout=CONNECT_S).close()
    except OSError as error:
        return str(error)
    return ""


class Health:
    """Asks at most every CHECK_EVERY_S. `problem`: what no longer works; empty: nothing."""

    def __init__(self) -> None:
        self.address, self.node = control_server(), ray.get_runtime_context().get_node_id()
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

    def settled(self) -> str:
        """`problem`, once Ray has answered or has been silent for too long: before calls that wait for it for ever."""
        began = time.monotonic()
        while not self.check(at_once=True) and self._answered_at < began:
            time.sleep(SETTLE_S)
        return self.problem

    def _ask(self, now: float) -> str:
        if refused := refusal(self.address):
            return self._silent(now, refused)
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
