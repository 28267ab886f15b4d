"""A Ray that a run starts itself: it listens on the loopback alone, and asks whoever connects for a token."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray._private import ray_constants

TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@contextmanager
def closed_to_others() -> Iterator[None]:
    """Inside, `ray.init` starts a Ray that only processes of this user reach.

    Ray's processes inherit the token. Without one in the environment Ray would write it to ~/.ray/auth_token, which
    others can read where they may enter HOME; one that the environment names is kept.

    On Linux Ray listens on all addresses. What makes it take the loopback is its switch for systems without clusters;
    `ray.init` itself turns 127.0.0.1 into the host's address.
    """
    if not any(os.environ.get(name) for name in TOKENS):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def close_session() -> None:
    """Let nobody else into the folder of this Ray's logs and sockets, which Ray opens to all users of the host."""
    os.chmod(ray._private.worker._global_node.get_session_dir_path(), 0o700)
