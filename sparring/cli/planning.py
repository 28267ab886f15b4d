"""The commands that measure and predict: what a run takes here, and on a number of devices."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sparring import config as configuration
from sparring.cli.shell import HINT, Json, Recipe, note, out
from sparring.config import Config
from sparring.errors import UsageError

planning_commands = typer.Typer()
MOST_MINUTES = 10_000
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
    from sparring.commands.limits import sentence
    from sparring.commands.splits import attacks_of, explain_devices, rows_of, with_fresh_finish
    from sparring.observe.report import table

    counts = [int(count) for count in devices.split(",") if count]
    recipe, config = config, with_fresh_finish(config)
    splits, limits, source = explain_devices(config, counts)
    if as_json:
        devices_found = [split.as_dict(price) for split in splits]
        finish = config.staleness.finish
        found = {
            "times": source,
            "staleness.finish": finish,
            "devices": devices_found,
            "limits": [asdict(limit) for limit in limits],
        }
        out(json.dumps(found, indent=2))
        return
    wide = None if sys.stdout.isatty() else TABLE_COLUMNS
    Console(width=wide).print(table("sparring explain", rows_of(splits, price)))
    out("The devices that do not train are workers.")
    if limits:
        out(sentence(limits))
    out(f"Predicted on the virtual clock, with the times {source}. Attacks: {attacks_of(config, recipe)}.")


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


@planning_commands.command(epilog=HINT)
def suggest(
    context: typer.Context,
    recipe: Recipe = None,
    minutes: Annotated[float, typer.Option(help="Length of the trials, all together.")] = 1.0,
    train_minutes: Annotated[float, typer.Option(help="Length of the training that is suggested.")] = 10.0,
    to: Annotated[Path, typer.Option("--out", "-o", help="The recipe that is written.")] = Path("suggested.toml"),
    as_json: Json = False,
) -> None:
    """Propose a recipe for data, model and attack by short trainings on this machine, with the reasons beside it.

    Tried are optimizer, rate, batch, attack steps and the warm-up of ε, on held-out training examples.
    """
    from sparring.commands.suggest import suggest as suggest_recipe

    for name, value in (("--minutes", minutes), ("--train-minutes", train_minutes)):
        if not 0 < value <= MOST_MINUTES:
            raise UsageError(f"{name} {value:g}: minutes between 0 and {MOST_MINUTES} are needed.")
    if to.exists():
        raise UsageError(f"{to} is there already. Name another file with --out.")
    found = suggest_recipe(configuration.load(recipe, context.obj), minutes, train_minutes, note)
    to.write_text(found.text)
    out(json.dumps({**found.as_dict(), "file": str(to)}, indent=2) if as_json else f"{found.text}\nwritten to {to}")
