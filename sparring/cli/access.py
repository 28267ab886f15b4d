"""The command that makes users of Redis for the roles of a run: access."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sparring import config as configuration
from sparring.cli.shell import Json, note, out

access_commands = typer.Typer()
HINT = "For example: sparring access NAME --queue.redis_url redis://HOST:6380/0 --queue.password_file FILE"


@access_commands.command(epilog=HINT)
def access(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(help="Only for runs of this run.name; by default the users may work on all runs.")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for the passwords; by default ~/.sparring/access/NAME or access-all."),
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Delete the users and their passwords.")] = False,
    as_json: Json = False,
) -> None:
    """Make users of Redis for trainer, workers and readers, limited to a run's keys and to what each needs.

    With queue.redis_url they are made there; else their rules are printed, for a server's configuration or ACL file.
    """
    from sparring.commands.access import apply_access, make_access, remove_access

    config = configuration.load(None, context.obj)
    if name is not None:
        configuration.overridden(config, {"run.name": name})  # refused where no run can have it
    by_default = Path("~/.sparring/access-all") if name is None else Path("~/.sparring/access") / name
    place = (folder or by_default).expanduser()
    if remove:
        where = remove_access(name, place, config)
        out(json.dumps({"folder": str(place), "server": where}) if as_json else f"removed from {where}")
        return
    made = make_access(name, place)
    server = None if config.queue.redis_url is None else apply_access(made, config)
    if as_json:
        out(json.dumps({**made.as_dict(), "server": server}, indent=2))
        return
    out("\n".join(made.lines) if server is None else f"made on {server}: --queue.access {made.folder}")
    note(f"passwords: {made.folder} (keep them from others; a run is given them by --queue.access {made.folder})")
