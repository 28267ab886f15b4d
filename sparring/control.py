"""Reaching a run from another process: through its queue while it trains asynchronously, else through its folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sparring.errors import SparringError, UsageError
from sparring.observe.state import RunState
from sparring.runs import Run

LOOK_EVERY_S = 0.5


def read_status(run: Run) -> dict[str, Any]:
    """The run's state, its workers' heartbeats under `workers`, and whether a process works on it under `alive`."""
    alive = run.is_alive()
    transport = _transport(run) if alive else None
    if transport is None:
        return _of_folder(run)
    try:
        state = transport.state()
        told = _of_folder(run) if state is None else {**state, "workers": transport.heartbeats()}
    finally:
        transport.close()
    return {**told, "alive": alive, "run": str(run.path)}


def _of_folder(run: Run) -> dict[str, Any]:
    """What `read_status` tells, from the folder alone; it is a second old at most."""
    alive = run.is_alive()
    told = run.read_json("state.json") or {**RunState().as_dict(), "workers": {}}
    if not alive and told["phase"] in ("starting", "training", "evaluating"):
        told["phase"] = "died"
    return {**told, "alive": alive, "run": str(run.path)}


def require_going_on(run: Run) -> None:
    """Refuse to watch what does not move.

    Raises:
        UsageError: nothing works on the run.
    """
    if not run.is_alive():
        raise UsageError(
            f"{run.path} is not running ({_of_folder(run)['phase']}); `sparring status {run.path}` tells how it stands."
        )


def follow(run: Run, show: Callable[[RunState, dict[str, dict[str, Any]]], None]) -> None:
    """Show a run that goes on in another process until it has ended."""
    while True:
        try:
            told = read_status(run)
        except SparringError:  # the queue is away or ending; the folder tells what becomes of the run
            told = _of_folder(run)
        show(RunState.from_dict(told), told["workers"])
        if not told["alive"]:
            return
        time.sleep(LOOK_EVERY_S)


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
