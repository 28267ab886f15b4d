"""Reaching a run from another process: through its queue while it trains asynchronously, else through its folder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from sparring.config import MOST_WORKERS, Config, config_of, trainer_attacks, with_workers
from sparring.errors import SparringError, UsageError
from sparring.observe.state import Report, RunState
from sparring.runs import Run

if TYPE_CHECKING:
    from sparring.queue.transport import Transport

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


def follow(run: Run, show: Report) -> None:
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


def _transport(run: Run) -> Transport | None:
    """The run's queue, or None where it has none."""
    told = run.read_json(run.connection.name)
    if told is None:
        return None
    from sparring.queue.connection import connect, password_of
    from sparring.queue.transport import Transport

    settings = config_of(run).queue
    password = told["password"] or password_of(settings)
    client = connect(told["url"], password, timeout_s=5.0)
    return Transport(client, run.id, lease_s=settings.lease_s, timeout_s=5.0)


def read_workers(run: Run) -> dict[str, Any]:
    """How many workers are `wanted`, and under `workers` what each does (`state`) and last said of itself.

    Raises:
        UsageError: the run has no workers, or nothing works on it.
    """
    with _queue(run) as transport:
        return _told_of_workers(run, transport)


def change_workers(run: Run, verb: Literal["set", "add", "drain"], value: int | str) -> dict[str, Any]:
    """`set` how many workers there are to be, `add` some, or `drain` one by name; then what `read_workers` tells.

    The run follows within a second: new workers serve as soon as there is a place for them, those that leave finish or
    hand back their tickets. The number outlives the run's processes: a resume goes on with it.

    Raises:
        UsageError: the run has no workers or nothing works on it, there is no such worker, or the number cannot be.
    """
    config = config_of(run)
    with _queue(run) as transport:
        states = transport.pool()
        if verb == "drain" and value not in states:
            raise UsageError(f"{value}: {run.path} has no such worker. There are {', '.join(states) or 'none'}.")
        if verb != "drain":
            before = transport.wanted_workers() or 0
            _require_gpus(config, int(value) + (before if verb == "add" else 0))
        count = transport.change_worker_target(verb, value, _least(config), MOST_WORKERS)
        if count == -1:
            raise UsageError(f"{run.path} is starting and has no workers yet; try again in a moment.")
        if count == -2:
            raise UsageError(_out_of_bounds(config, verb, value))
        return _told_of_workers(run, transport)


def _least(config: Config) -> int:
    """Without workers somebody else must attack."""
    return 0 if trainer_attacks(with_workers(config, 0)) else 1


def _out_of_bounds(config: Config, verb: str, value: int | str) -> str:
    least = _least(config)
    alone = (
        f" Without workers nobody would attack (staleness.trainer_attacks = {config.staleness.trainer_attacks!r})."
        if least
        else ""
    )
    return f"{verb} {value}: workers.count must stay between {least} and {MOST_WORKERS}.{alone}"


def _require_gpus(config: Config, count: int) -> None:
    from sparring.commands.checks import check_resources

    check_resources(with_workers(config, count))


def _told_of_workers(run: Run, transport: Transport) -> dict[str, Any]:
    beats, states = transport.heartbeats(), transport.pool()
    workers = {name: {"state": state, **beats.get(name, {})} for name, state in states.items()}
    return {"run": str(run.path), "wanted": transport.wanted_workers(), "workers": workers}


@contextmanager
def _queue(run: Run) -> Iterator[Transport]:
    """The queue of a run that goes on with workers."""
    engine = config_of(run).engine
    if engine != "ray":
        raise UsageError(f"engine = {engine!r}: {run.path} trains in one process and has no workers.")
    if not run.is_alive():
        raise UsageError(f"{run.path} is not running; `sparring resume {run.path} --workers N` goes on with N workers.")
    transport = _transport(run)
    if transport is None:
        raise UsageError(f"{run.path} is starting and has no workers yet; try again in a moment.")
    try:
        if (transport.state() or {}).get("phase") == "evaluating":
            raise UsageError(f"{run.path} has made its last step and is being evaluated; it needs no workers any more.")
        yield transport
    finally:
        transport.close()
