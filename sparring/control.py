"""Reaching a run from another process: through its queue while it trains asynchronously, else through its folder."""

from __future__ import annotations

import time
from typing import Any

from sparring.errors import SparringError, UsageError
from sparring.observe.state import RunState
from sparring.runs import Run


def read_status(run: Run) -> dict[str, Any]:
    """The run's state, its workers' heartbeats under `workers`, and whether a process works on it under `alive`."""
    alive = run.is_alive()
    told = run.read_json("state.json") or {**RunState().as_dict(), "workers": {}}
    transport = _transport(run) if alive else None
    if transport is not None:
        try:
            state = transport.state()
            if state is not None:
                told = {**state, "workers": transport.heartbeats()}
        finally:
            transport.close()
    if not alive and told["phase"] in ("starting", "training", "evaluating"):
        told["phase"] = "died"
    return {**told, "alive": alive, "run": str(run.path)}


def stop_run(run: Run, timeout_s: float) -> None:
    """Ask the run to stop and wait until it has.

    Raises:
        UsageError: nothing works on it.
        SparringError: it goes on after `timeout_s`.
    """
    if not run.is_alive():
        raise UsageError(f"{run.path} is not running; nothing to stop.")
    transport = _transport(run)
    if transport is not None:
        try:
            transport.request_stop()
        finally:
            transport.close()
    run.request_stop()
    limit = time.monotonic() + timeout_s
    while run.is_alive():
        if time.monotonic() > limit:
            raise SparringError(
                f"{run.path} was asked to stop and still runs after {timeout_s:.0f} s (--timeout-s); see its run.log."
            )
        time.sleep(0.1)


def _transport(run: Run) -> Any | None:
    """The run's queue, or None where it has none."""
    told = run.read_json(run.connection.name)
    if told is None:
        return None
    from sparring.queue.connection import connect, password_of
    from sparring.queue.transport import Transport

    settings = run.config().queue
    password = told["password"] or password_of(settings)
    client = connect(told["url"], password, timeout_s=5.0)
    return Transport(client, run.id, lease_s=settings.lease_s, timeout_s=5.0)
