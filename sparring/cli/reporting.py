"""The commands that show a run: report, and attack for a few of its images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sparring.cli.shell import Json, RunPath, note, out
from sparring.errors import UsageError
from sparring.runs import open_run

reporting_commands = typer.Typer()
HINT = "Change the attack by settings such as --evaluation.steps 100, or --data.root where the data are elsewhere."


@reporting_commands.command(epilog=HINT)
def report(
    context: typer.Context,
    runs: Annotated[list[Path], typer.Argument(help="A run folder, or several to be shown side by side.")],
    path: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The HTML file; by default report.html in the run's folder, of several here."),
    ] = None,
    gallery: Annotated[
        bool, typer.Option("--gallery/--no-gallery", help="Attack a few test images and show them.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Write one HTML file with a run's figures, charts, attacked images and settings; it needs no network."""
    from sparring.commands.report import report_runs

    opened = [open_run(each) for each in runs]
    file = report_runs(opened, path, context.obj, gallery=gallery, progress=note)
    if as_json:
        out(json.dumps({"report": str(file), "size_bytes": file.stat().st_size}, indent=2))
    else:
        out(str(file))


@reporting_commands.command(epilog=HINT)
def attack(
    context: typer.Context,
    run: RunPath,
    image: Annotated[
        list[Path] | None,
        typer.Option(
            "--image", metavar="FILE...", help="Pictures of the shape that the network takes; several may follow."
        ),
    ] = None,
    grid: Annotated[
        Path | None, typer.Option("--grid", help="Write clean, perturbation, attacked to this PNG file.")
    ] = None,
    count: Annotated[
        int | None,
        typer.Option("--count", min=1, help="Number of test images, where no files are given.", show_default="10"),
    ] = None,
    best: Annotated[
        bool, typer.Option("--best", help="Use the best checkpoint on held-out data, not the last.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Attack test images or your own, and show what the network says before and after."""
    from sparring.commands.attacking import attack_run
    from sparring.observe.report import table

    if grid is not None and image is not None and grid in image:
        raise UsageError(f"--grid {grid}: it is one of the images.")
    found = attack_run(open_run(run), context.obj, image or (), count=count, best=best, sheet=grid)
    if as_json:
        out(json.dumps(found, indent=2))
        return
    rows = [
        {
            "image": each["image"],
            "label": each["label"],
            "before": _said(each["before"]),
            "after": _said(each["after"]),
            "result": each["result"],
        }
        for each in found["images"]
    ]
    kinds = ", ".join(f"{found[kind]} {kind}" for kind in ("robust", "broken", "wrong"))
    Console().print(table(f"{found['attack']}: {found['samples']} images, {kinds}", rows))
    for warning in found["warnings"]:
        out(warning)
    if grid is not None:
        out(str(grid))


def _said(prediction: dict[str, object]) -> str:
    from sparring.evaluation.pictures import NO_CLASS

    if prediction["class"] is None:
        return NO_CLASS
    return f"{prediction['class']} ({100 * float(str(prediction['confidence'])):.0f} %)"
