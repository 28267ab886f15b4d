"""The commands that measure and predict: what a run takes here, and on a number of devices."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sparring import config as configuration
from sparring.cli.shell import HINT, Json, Recipe, out
from sparring.config import Config

planning_commands = typer.Typer()
TABLE_COLUMNS = 100  # where no terminal has a width


@planning_commands.command(epilog=HINT)
def explain(
    context: typer.Context,
    recipe: Recipe = None,
    devices: Annotated[
        str | None, typer.Option(metavar="N N ...", help="For each number of devices the best split into two kinds.")
    ] = None,
    price: Annotated[float | None, typer.Option(help="With --devices: of a device for an hour.")] = None,
    as_json: Json = False,
) -> None:
    """Predict a run without making it: duration, memory, staleness, useful workers, bottleneck."""
    from sparring.commands.explain import explain as explain_recipe
    from sparring.observe.report import table

    config = configuration.load(recipe, context.obj)
    if devices is not None:
        _explain_devices(config, devices, price, as_json)
        return
    explanation = explain_recipe(config)
    if as_json:
        out(json.dumps(explanation.as_dict(), indent=2))
    else:
        out(explanation.verdict)
        Console().print(table("sparring explain", explanation.rows()))
        for remark in explanation.remarks:
            out(remark)
    if not explanation.ok:
        raise typer.Exit(1)


def _explain_devices(config: Config, devices: str, price: float | None, as_json: bool) -> None:
    from sparring.commands.splits import attacks_of, explain_devices, rows_of
    from sparring.observe.report import table

    counts = [int(count) for count in devices.split(",") if count]
    splits, source = explain_devices(config, counts)
    if as_json:
        found = {"times": source, "devices": [split.as_dict(price) for split in splits]}
        out(json.dumps(found, indent=2))
        return
    wide = None if sys.stdout.isatty() else TABLE_COLUMNS
    Console(width=wide).print(table("sparring explain", rows_of(splits, price)))
    out("The devices that do not train are workers.")
    out(f"Predicted on the virtual clock, with the times {source}. Attacks: {attacks_of(config)}.")


@planning_commands.command(epilog=HINT)
def calibrate(
    context: typer.Context,
    recipe: Recipe = None,
    to: Annotated[Path | None, typer.Option("--out", help="File; by default it is printed.")] = None,
) -> None:
    """Measure what the parts of a recipe take here: a file for --virtual.times, the times of the virtual clock."""
    from sparring.commands.time_model import time_model, to_file
    from sparring.trainer.experiment import build_experiment

    experiment = build_experiment(configuration.load(recipe, context.obj))
    text = to_file(time_model(experiment), experiment)
    if to is None:
        out(text)
    else:
        to.write_text(text)
        out(str(to))
