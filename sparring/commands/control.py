"""Read and control a run from another process: through its queue if it has one, else through its folder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal

from sparring.config import MAX_WORKERS, Config, config_of, trainer_attacks, with_workers
from sparring.errors import SparringError, UsageError
from sparring.observe.state import Report, RunState
from sparring.runs import Run

if TYPE_CHECKING:
    from sparring.queue.access import Role
    from sparring.queue.transport import Transport

POLL_S = 0.5
STATUS_TIMEOUT_S = 2.0  # for the queue's answer


def read_status(run: Run) -> dict[str, Any]:
    """The run's state, with its workers' heartbeats as `workers` and whether a process works on it as `alive`.

    Where its queue does not answer, what the run's folder records, with that as `message`.
    """
    transport = _transport(run, "reader", STATUS_TIMEOUT_S) if run.is_alive() else None
    status = status_from_folder(run)
    if transport is None:
        return status
    try:
        state = transport.state()
        if state is not None and _is_state(state):
            status |= {**state, "workers": transport.heartbeats()}
    except SparringError as error:
        status["message"] = f"from the run's folder, since the queue does not answer: {error}"
    finally:
        transport.close()
    return status


def _is_state(found: dict[str, Any]) -> bool:
    try:
        RunState.from_dict(found)
    except ValueError:
        return False
    return True


def status_from_folder(run: Run) -> dict[str, Any]:
    """The status as the run's folder records it, at most a second old."""
    alive = run.is_alive()
    status = {**RunState().as_dict(), "workers": {}, **_recorded(run)}
    if not alive and status["phase"] in ("starting", "training", "evaluating"):
        status["phase"] = "died"
    return {**status, "alive": alive, "run": str(run.path)}


def _recorded(run: Run) -> dict[str, Any]:
    """What state.json holds; empty where there is none.

    Raises:
        SparringError: it is damaged.
    """
    found = run.read_json("state.json")
    try:
        if not isinstance(found, dict | None) or not isinstance((found or {}).get("workers", {}), dict):
            raise ValueError("it holds no state of a run")
        RunState.from_dict(found or {})
    except ValueError as error:
        raise SparringError(
            f"{run.path / 'state.json'} is damaged ({error}). Delete it; `sparring resume` writes it again."
        ) from error
    return found or {}


def require_running(run: Run) -> None:
    """Check that a process works on the run.

    Raises:
        UsageError: none does.
    """
    if not run.is_alive():
        raise UsageError(
            f"{run.path} is not running ({status_from_folder(run)['phase']}); `sparring status {run.path}` shows its "
            f"state."
        )


def follow(run: Run, show: Report) -> None:
    """Show the state of a run of another process until that run has ended."""
    while True:
        status = read_status(run)
        show(RunState.from_dict(status), status["workers"])
        if not status["alive"]:
            return
        time.sleep(POLL_S)


def stop_run(run: Run, timeout_s: float) -> str:
    """Ask the run to stop and wait until it has ended; returns how: stopped, or finished or failed before.

    Raises:
        UsageError: no process works on it.
        SparringError: it still runs after `timeout_s`.
    """
    if not run.is_alive():
        raise UsageError(f"{run.path} is not running; nothing to stop.")
    run.request_stop()  # first: the queue may not answer
    transport = _transport(run, "trainer")
    if transport is not None:
        with closing(transport), suppress(SparringError):  # the run may have ended already, and its server with it
            transport.request_stop()
    limit = time.monotonic() + timeout_s
    while run.is_alive():
        if time.monotonic() > limit:
            raise SparringError(
                f"{run.path} was asked to stop and still runs after {timeout_s:.0f} s (--timeout-s); see its run.log."
            )
        time.sleep(0.1)
    return str(run.read_object("state.json").get("phase", "stopped"))


def _transport(run: Run, role: Role, timeout_s: float = 5.0) -> Transport | None:
    """The run's queue, which is reached as the user of a role; None where it has none."""
    address = run.read_json(run.connection.name)
    if not isinstance(address, dict) or not {"url", "logins"} <= address.keys():
        return None
    from sparring.queue.access import Login
    from sparring.queue.connection import connect, login_of
    from sparring.queue.transport import Transport

    settings, own = config_of(run).queue, address["logins"]
    client = connect(address["url"], Login(*own[role]) if own else login_of(settings, role), timeout_s)
    return Transport(client, run.id, lease_s=settings.lease_s, timeout_s=timeout_s)


def read_workers(run: Run) -> dict[str, Any]:
    """The worker target as `wanted`; under `workers` the state and the last heartbeat of each worker.

    Raises:
        UsageError: the run has no workers, or no process works on it.
    """
    with _queue(run, "reader") as transport:
        return _pool_status(run, transport)


def change_workers(run: Run, verb: Literal["set", "add", "drain"], value: int | str) -> dict[str, Any]:
    """`set` the worker target, `add` workers, or `drain` one by name; returns the same as `read_workers`.

    The run applies the change within a second. New workers serve as soon as Ray has resources for them. Workers that
    leave finish or hand back their tickets. The target is kept when the run is resumed.

    Raises:
        UsageError: the run has no workers, no process works on it, there is no such worker, or the number is out of
            bounds.
    """
    config = config_of(run)
    with _queue(run, "trainer") as transport:
        states = transport.pool()
        if verb == "drain" and value not in states:
            raise UsageError(f"{value}: {run.path} has no such worker. There are {', '.join(states) or 'none'}.")
        if verb != "drain":
            before = transport.target_count() or 0
            _require_gpus(config, int(value) + (before if verb == "add" else 0))
        count = transport.change_worker_target(verb, value, _min_workers(config), MAX_WORKERS)
        if count == -1:
            raise UsageError(
                f"{run.path} has no number of workers in its queue: it is starting, or has ended its training. See "
                f"`sparring status {run.path}`."
            )
        if count == -2:
            raise UsageError(_out_of_bounds(config, verb, value))
        return _pool_status(run, transport)


def _min_workers(config: Config) -> int:
    """0 workers are allowed only if the trainer attacks."""
    return 0 if trainer_attacks(with_workers(config, 0)) else 1


def _out_of_bounds(config: Config, verb: str, value: int | str) -> str:
    minimum = _min_workers(config)
    reason = (
        f" Without workers nothing would be attacked (staleness.trainer_attacks = "
        f"{config.staleness.trainer_attacks!r})."
        if minimum
        else ""
    )
    return f"{verb} {value}: workers.count must stay between {minimum} and {MAX_WORKERS}.{reason}"


def _require_gpus(config: Config, count: int) -> None:
    from sparring.commands.checks import check_resources

    check_resources(with_workers(config, count))


def _pool_status(run: Run, transport: Transport) -> dict[str, Any]:
    beats, states = transport.heartbeats(), transport.pool()
    workers = {name: {"state": state, **beats.get(name, {})} for name, state in states.items()}
    return {"run": str(run.path), "wanted": transport.target_count(), "workers": workers}


@contextmanager
def _queue(run: Run, role: Role) -> Iterator[Transport]:
    """The queue of a run that goes on with workers."""
    engine = config_of(run).engine
    if engine != "ray":
        raise UsageError(f"engine = {engine!r}: {run.path} trains in one process and has no workers.")
    if not run.is_alive():
        raise UsageError(f"{run.path} is not running; `sparring resume {run.path} --workers N` continues it.")
    transport = _transport(run, role)
    if transport is None:
        raise UsageError(f"{run.path} is starting and has no workers yet; try again in a moment.")
    try:
        if (transport.state() or {}).get("phase") == "evaluating":
            raise UsageError(f"{run.path} has finished its last step and is being evaluated; it needs no workers now.")
        yield transport
    except UsageError:
        raise
    except SparringError as error:  # its server ends with the training
        if (status := status_from_folder(run))["phase"] == "training" and status["alive"]:
            raise
        raise UsageError(f"{run.path} has ended its training ({status['phase']}) and has no workers now.") from error
    finally:
        transport.close()
