"""The command that starts a queue server for other hosts: serve-queue."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from sparring.cli.shell import out

queue_commands = typer.Typer()


@queue_commands.command("serve-queue")
def serve_queue(
    port: Annotated[int, typer.Option(help="Port of the server; 6379 is used by Ray.", min=1, max=65535)] = 6380,
    address: Annotated[
        str, typer.Option(help="Address to listen on, besides the loopback; auto: the address of this Ray node.")
    ] = "auto",
    maxmemory: Annotated[
        str, typer.Option(help="Memory limit in Redis's notation; `sparring explain` computes what a run needs.")
    ] = "4gb",
    password_file: Annotated[
        Path, typer.Option(help="File with the password; if it does not exist, it is created with a random password.")
    ] = Path("~/.sparring/redis-password"),
    beside_port: Annotated[
        int | None, typer.Option(help="End as soon as nothing listens on this port of the same address any more.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Serve in the background; print the URL.")] = False,
    log: Annotated[Path, typer.Option(help="Log file of the background server.")] = Path("~/.sparring/redis.log"),
) -> None:
    """Start a queue server for other hosts, with a password, without eviction and persistence."""
    from sparring.commands.serve_queue import Serving, bytes_of_size, serve, serve_detached

    settings = Serving(port, _address(address), bytes_of_size(maxmemory), password_file.expanduser(), beside_port)
    if detach:
        serve_detached(settings, [each for each in sys.argv[1:] if each != "--detach"], log.expanduser())
        out(settings.url)
    else:
        serve(settings)


def _address(text: str) -> str:
    if text != "auto":
        return text
    from ray.util import get_node_ip_address

    return str(get_node_ip_address())
