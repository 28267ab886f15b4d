"""The command that changes how many workers a run has while it goes on."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, Any

import typer

from sparring.cli.shell import Json, RunPath, out
from sparring.errors import UsageError
from sparring.runs import open_run

scaling = typer.Typer()


class Verb(StrEnum):
    """What is to be done."""

    SET = "set"
    ADD = "add"
    DRAIN = "drain"


@scaling.command()
def workers(
    run: RunPath,
    verb: Annotated[
        Verb | None, typer.Argument(help="set N: so many; add [K]: as many more; drain ID: let that one go.")
    ] = None,
    value: Annotated[str | None, typer.Argument(help="A number, or a worker's name.")] = None,
    as_json: Json = False,
) -> None:
    """Which workers a run has, or how many it shall have from now on; it goes on meanwhile."""
    from sparring.commands.control import change_workers, read_workers

    opened = open_run(run)
    told = read_workers(opened) if verb is None else change_workers(opened, verb.value, _value(verb, value))
    if as_json:
        out(json.dumps(told, indent=2))
        return
    out("\n".join(_lines(told)))


def _value(verb: Verb, text: str | None) -> int | str:
    if verb is Verb.DRAIN:
        if text is None:
            raise UsageError("drain: which worker? `sparring workers RUN` lists them.")
        return text
    if text is None and verb is Verb.ADD:
        return 1
    least = 0 if verb is Verb.SET else 1
    if text is None or not text.isdecimal() or int(text) < least:
        raise UsageError(f"{verb} {text or ''}: a whole number of workers is needed, {least} or more.")
    return int(text)


def _lines(told: dict[str, Any]) -> list[str]:
    serving = sum(fields["state"] == "serving" for fields in told["workers"].values())
    return [f"{told['wanted']} workers wanted, {serving} serving"] + [
        f"  {name}: {fields['state']}{_work(fields)}" for name, fields in told["workers"].items()
    ]


def _work(fields: dict[str, Any]) -> str:
    if "pid" not in fields:
        return ""
    return f", {fields['shards']} shards, version {fields['version']}, pid {fields['pid']} on {fields['node']}"
