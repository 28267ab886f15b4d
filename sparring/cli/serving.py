"""The command that serves a queue to other hosts: serve-queue."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from sparring.cli.shell import out

serving = typer.Typer()


@serving.command("serve-queue")
def serve_queue(
    port: Annotated[int, typer.Option(help="Its port; 6379 is Ray's.", min=1, max=65535)] = 6380,
    address: Annotated[str, typer.Option(help="Where it listens beside the loopback; auto: as Ray does.")] = "auto",
    maxmemory: Annotated[str, typer.Option(help="As Redis writes it; `sparring explain` says how much.")] = "4gb",
    password_file: Annotated[
        Path, typer.Option(help="Holds the password; made with a random one where there is none.")
    ] = Path("~/.sparring/redis-password"),
    beside_port: Annotated[
        int | None, typer.Option(help="End when nothing listens on this port of the same address any more.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Serve in the background; print the URL.")] = False,
    log: Annotated[Path, typer.Option(help="Where the background's output goes.")] = Path("~/.sparring/redis.log"),
) -> None:
    """Serve the queue to other hosts: a password, no eviction, no persistence."""
    from sparring.commands.serve_queue import Serving, bytes_of_size, serve, serve_detached

    wanted = Serving(port, _address(address), bytes_of_size(maxmemory), password_file.expanduser(), beside_port)
    if detach:
        serve_detached(wanted, [word for word in sys.argv[1:] if word != "--detach"], log.expanduser())
        out(wanted.url)
    else:
        serve(wanted)


def _address(text: str) -> str:
    if text != "auto":
        return text
    from ray.util import get_node_ip_address

    return str(get_node_ip_address())
