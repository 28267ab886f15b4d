"""The command that makes steps of a run again."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console

from sparring.cli.shell import Json, RunPath, out

replay_commands = typer.Typer()


@replay_commands.command()
def replay(
    run: RunPath,
    first: Annotated[int, typer.Option("--from", help="Show the steps after this one.")] = 0,
    until: Annotated[int | None, typer.Option(help="The last step; by default that of the newest checkpoint.")] = None,
    as_json: Json = False,
) -> None:
    """Make steps of a run again in this process and compare the weights at its checkpoints: 1 where they differ.

    Where the weights depended on timing, the versions of each attack step are those that the run has recorded.
    """
    from sparring.commands.replay import replay as make_again
    from sparring.observe.progress import Progress
    from sparring.observe.report import table

    with Progress(run.name) as progress:
        found = make_again(run, first, until, lambda state: progress.update(state, {}))
    if as_json:
        out(json.dumps(found.as_dict(), indent=2))
    else:
        if first and found.steps:
            Console().print(table(f"Steps {first + 1} to {found.ended} of {run.name}", found.steps))
        for each in found.compared:
            said = "the same bits" if each.same else f"weights differ by up to {each.largest_difference:.3g}"
            out(f"step {each.step}: {said}")
        if not found.compared:
            out(f"steps {found.began + 1} to {found.ended} were made; the run has no checkpoint there to compare with")
    if found.same is False:
        raise typer.Exit(1)
