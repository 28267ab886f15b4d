"""The command that shows or changes the workers of a run while it goes on: workers."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, Any

import typer

from sparring.cli.shell import Json, RunPath, out
from sparring.errors import UsageError
from sparring.runs import open_run

worker_commands = typer.Typer()


class Verb(StrEnum):
    """How to change the number of workers."""

    SET = "set"
    ADD = "add"
    DRAIN = "drain"


@worker_commands.command(context_settings={"ignore_unknown_options": True})  # so that -1 is a number, if a wrong one
def workers(
    run: RunPath,
    verb: Annotated[
        Verb | None, typer.Argument(help="set N: have N workers; add [K]: have K more; drain ID: stop that worker.")
    ] = None,
    value: Annotated[str | None, typer.Argument(help="Number of workers, or the name of a worker.")] = None,
    as_json: Json = False,
) -> None:
    """List the workers of a run, or change their number while it goes on."""
    from sparring.commands.control import change_workers, read_workers

    opened = open_run(run)
    pool = read_workers(opened) if verb is None else change_workers(opened, verb.value, _value(verb, value))
    if as_json:
        out(json.dumps(pool, indent=2))
        return
    out("\n".join(_lines(pool)))


def _value(verb: Verb, text: str | None) -> int | str:
    if verb is Verb.DRAIN:
        if text is None:
            raise UsageError("drain needs the name of a worker; `sparring workers RUN` lists them.")
        return text
    if text is None and verb is Verb.ADD:
        return 1
    minimum = 0 if verb is Verb.SET else 1
    if text is None or not text.isdecimal() or int(text) < minimum:
        raise UsageError(f"{verb} {text or ''}: a whole number of workers is needed, {minimum} or more.")
    return int(text)


def _lines(pool: dict[str, Any]) -> list[str]:
    serving = sum(fields["state"] == "serving" for fields in pool["workers"].values())
    wanted = pool["wanted"]
    return [f"target: {wanted} worker{'' if wanted == 1 else 's'}; serving: {serving}"] + [
        f"  {name}: {fields['state']}{_work(fields)}" for name, fields in pool["workers"].items()
    ]


def _work(fields: dict[str, Any]) -> str:
    if "pid" not in fields:
        return ""
    return f", {fields['shards']} shards, version {fields['version']}, pid {fields['pid']} on {fields['node']}"
