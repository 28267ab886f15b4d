"""The command of the lab: studies that repeat tables and figures of papers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from sparring.cli.shell import Json, note, out
from sparring.errors import UsageError

if TYPE_CHECKING:
    from sparring.lab.laboratory import Lab
    from sparring.lab.running import Done

studying_commands = typer.Typer()


@studying_commands.command()
def lab(
    names: Annotated[list[str] | None, typer.Argument(help="Studies, or all. Without one they are listed.")] = None,
    size: Annotated[str, typer.Option("--size", help="quick: on two cores; full: the paper's setting.")] = "quick",
    seeds: Annotated[str, typer.Option("--seeds", help="Seeds of the runs, such as --seeds 0 1 2.")] = "0",
    data: Annotated[Path | None, typer.Option("--data", help="Folder of the data sets.")] = None,
    results: Annotated[Path, typer.Option("--results", help="Folder of the records.")] = Path("lab/results"),
    runs: Annotated[Path, typer.Option("--runs", help="Folder of the trained runs.")] = Path("runs/lab"),
    processes: Annotated[
        int | None, typer.Option("--processes", min=1, help="Points at once; by default as many as there are cores.")
    ] = None,
    address: Annotated[
        str | None, typer.Option("--address", help="A Ray cluster that does the points; --runs must be shared by it.")
    ] = None,
    num_gpus: Annotated[float, typer.Option("--num-gpus", min=0, help="GPUs of each point, with --address.")] = 0.0,
    pages: Annotated[
        Path | None, typer.Option("--pages", help="Run nothing: draw the records into the pages of this folder.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Repeat tables and figures of the papers: each study is a grid of runs. Points that are done are kept."""
    from sparring.commands.several_seeds import numbers_of
    from sparring.lab.laboratory import Lab, chosen, do, draw_pages, require_data, table_of
    from sparring.lab.study import SIZES
    from sparring.lab.work import Place

    if size not in SIZES:
        raise UsageError(f"--size {size}: choose one of {', '.join(SIZES)}.")
    if num_gpus and address is None:
        raise UsageError("--num-gpus is for a Ray cluster. Give its --address too, such as --address auto.")
    place = Place(None if data is None else data.resolve(), runs.resolve())
    here = Lab(size, tuple(numbers_of(seeds)), results, place)
    if pages is not None:
        if names:
            raise UsageError("--pages runs no study: leave the names out. Each page says which studies it shows.")
        changed = draw_pages(results, pages)
        out(json.dumps({"changed": changed}, indent=2) if as_json else "\n".join(changed) or "nothing has changed")
        return
    studies = chosen(names or ["all"])
    if not names:
        _list(here, [here.state_of(study) for study in studies], as_json)
        return
    require_data(place, studies, size)
    ends = do(here, studies, note, at_once=processes, address=address, num_gpus=num_gpus)
    if as_json:
        out(json.dumps([here.state_of(study) for study in studies], indent=2))
    else:
        for study in studies:
            out(f"# {study.name}: {study.question}\n\n{table_of(results, study, here.size)}")
    _require_whole(ends)


def _list(here: Lab, states: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        out(json.dumps(states, indent=2))
        return
    table = Table("study", "paper", "shows", "points", "hours")
    for state in states:
        done = f"{state['done']} of {state['points']}"
        table.add_row(state["study"], state["paper"], state["shows"], done, f"{state['hours']:g}")
    Console().print(table)
    note(f"size {here.size}; `sparring lab NAME` does what is missing")


def _require_whole(ends: dict[str, Done]) -> None:
    """Exit with 1 if a point failed."""
    failed = {name: done.failed for name, done in ends.items() if done.failed}
    for name, each in failed.items():
        for reason in each.values():
            note(f"{name}: {reason}")
    if failed:
        raise typer.Exit(1)
