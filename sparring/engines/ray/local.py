"""A Ray that a run starts itself: it listens on the loopback alone, and asks whoever connects for a token."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import ray
from ray._private import ray_constants
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # compiled: its types lack it

TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
ACCESS = ("RAY_AUTH_MODE", *TOKENS)


@contextmanager
def own_token() -> Iterator[None]:
    """Inside, a Ray that this process starts asks for a token of its own, which its processes inherit; one that the
    environment names is kept.

    Without one in the environment Ray would write it to ~/.ray/auth_token, which others can read where they may enter
    HOME. Afterwards all is as before: to a cluster that knows of no tokens, who brings one is a stranger.
    """
    before = {name: os.environ.get(name) for name in ACCESS}
    if not any(before[name] for name in TOKENS):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        Config.initialize("")  # Ray keeps in this process what it has read
        AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def loopback_alone() -> Iterator[None]:
    """Inside, `ray.init` starts a Ray that listens on no other address.

    On Linux Ray listens on all of them. What makes it take the loopback is its switch for systems without clusters;
    `ray.init` itself turns 127.0.0.1 into the host's address.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def standard_output_left_alone() -> Iterator[None]:
    """Inside, Ray does not print there that a process has died, which is for data; the driver logs it."""
    before = ray._private.worker._worker_logs_enabled
    ray._private.worker._worker_logs_enabled = False
    try:
        yield
    finally:
        ray._private.worker._worker_logs_enabled = before


@contextmanager
def put_back_afterwards(address: str) -> Iterator[None]:
    """Inside, Ray may be started or joined at an address; afterwards what that sets in this process is as before."""
    with own_token() if address == "local" else nullcontext(), standard_output_left_alone():
        yield


def close_session() -> None:
    """Let nobody else into the folder of this Ray's logs and sockets, which Ray opens to all users of the host."""
    os.chmod(ray._private.worker._global_node.get_session_dir_path(), 0o700)
