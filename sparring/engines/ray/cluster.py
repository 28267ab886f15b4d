"""The connection of this process to Ray: to a Ray that it starts itself, or to the cluster that the settings name."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from sparring.config import RaySettings
from sparring.engines.ray.health import control_server, refusal
from sparring.engines.ray.local import close_session, loopback_alone, put_back_afterwards
from sparring.errors import SparringError, UsageError
from sparring.machine.last_word import last_word
from sparring.machine.signals import handlers_set_again, signals_left_alone

log = logging.getLogger(__name__)
KILLED = (
    "sparring: this process was ended from outside, or by Ray, whose process on this host (raylet) may have died; its "
    "logs are in its session's folder (/tmp/ray). `sparring resume RUN` continues a run from its last checkpoint, and "
    "the same `sparring evaluate` goes on with the verdicts that are kept."
)
SHUTDOWN_S, GONE_S = 30.0, 3.0


def require_connectable(settings: RaySettings) -> None:
    """Refuse a process that is connected to Ray already, since a run connects to its own, and an environment in which
    no Ray starts, without saying why.

    Raises:
        UsageError: it is such a process.
    """
    if ray.is_initialized():
        raise UsageError("Ray is already running in this process; call ray.shutdown() before sparring.train().")
    if settings.address != "local":
        return
    if sys.flags.optimize > 1:
        raise UsageError(
            "PYTHONOPTIMIZE=2 (python -OO): without docstrings Ray does not start. Unset it, or use --engine sync."
        )
    for name in ("RAY_TMPDIR", "TMPDIR"):
        if (folder := os.environ.get(name)) and not os.path.isdir(folder):
            raise UsageError(
                f"{name} = {folder!r} is no folder, and Ray would keep its sockets and logs there. Make it, or unset "
                f"{name}."
            )


@contextmanager
def ray_cluster(settings: RaySettings, trainer_cpus: float) -> Iterator[None]:
    """A local Ray of this run's own, shut down at the end, or a connection to the cluster that the settings name."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's default of 15 gives other processes precedence
    require_connectable(settings)
    # Without its raylet Ray's core may end this process, also while it connects or shuts down.
    with put_back_afterwards(settings.address), last_word(KILLED):
        try:
            with signals_left_alone():
                _connect(settings, trainer_cpus)
        except SystemExit as error:  # by Ray's own handler of SIGTERM
            raise KeyboardInterrupt from error
        except Exception as error:  # Ray raises many kinds, also a bare one where its processes do not start
            raise SparringError(f"ray.address = {settings.address!r}: {_explained(error)}") from error
        try:
            yield
        finally:
            _shut_down()


def _connect(settings: RaySettings, trainer_cpus: float) -> None:
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if settings.address != "local":
        ray.init(address=settings.address, **common)
        return
    with loopback_alone():
        ray.init(
            address="local",
            num_cpus=int(trainer_cpus) + 2,
            include_dashboard=False,
            object_store_memory=settings.object_store_mb << 20,
            **common,
        )
    close_session()


def _explained(error: BaseException) -> str:
    """What went wrong at a connection to Ray; that a token is missing, or is another one, in a sentence."""
    seen: BaseException | None = error
    while seen is not None:
        if "AuthToken" in str(seen) or isinstance(seen, ray.exceptions.AuthenticationError):
            return (
                "that cluster asks for a token, and none was given or another one. Set RAY_AUTH_MODE=token, and put "
                "the cluster's token into ~/.ray/auth_token or into a file that RAY_AUTH_TOKEN_PATH names."
            )
        seen = seen.__cause__ or seen.__context__
    return str(error)


def _shut_down() -> None:
    """End the connection to Ray, and Ray itself if it is local; wait no longer than SHUTDOWN_S, or GONE_S without its
    control server: where Ray's processes have died, it may wait for their answers for ever."""
    address = control_server()
    ending = threading.Thread(target=ray.shutdown, name="ray-shutdown", daemon=True)
    ending.start()
    wait_s = GONE_S if refusal(address) else SHUTDOWN_S
    limit = time.monotonic() + wait_s
    while ending.is_alive() and time.monotonic() < limit:
        ending.join(0.1)
        handlers_set_again()
    if ending.is_alive() and (node := ray._private.worker._global_node) is not None:
        node.kill_all_processes(check_alive=False)  # a raylet that is stopped, for which it waits
        ending.join(wait_s)
    if ending.is_alive():
        atexit.unregister(ray._private.worker.shutdown)  # it would wait for this one
        log.error("Ray did not shut down within %g s; its processes may be left on this host", wait_s)
