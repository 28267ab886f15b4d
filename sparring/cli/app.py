"""The `sparring` command. Results go to standard output, all else to standard error.

Exit codes: 0, 1 (failure), 2 (wrong usage), 130 (interrupted).
"""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from sparring import config as configuration
from sparring.cli.access import access_commands
from sparring.cli.evaluating import evaluation_commands
from sparring.cli.planning import planning_commands
from sparring.cli.replaying import replay_commands
from sparring.cli.reporting import reporting_commands
from sparring.cli.serving import queue_commands
from sparring.cli.shell import HINT, Json, Recipe, RunPath, fail, note, out, rows
from sparring.cli.streams import begin_in_utf_8, unfailing_streams
from sparring.cli.studying import studying_commands
from sparring.cli.workers import worker_commands
from sparring.config import SHORT_NAMES, Config
from sparring.errors import Interrupted, SparringError, UsageError, file_failure, is_out_of_memory, run_of
from sparring.machine.signals import interrupted_by_signals
from sparring.plugins import users_failure
from sparring.runs import Run, open_run, require_utf_8


class Commands(TyperGroup):
    """All commands. Typer would end one that is interrupted without a word."""

    def invoke(self, ctx: Any) -> Any:
        """Raises Interrupted in the place of a KeyboardInterrupt."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            interrupted = Interrupted("interrupted")
            interrupted.run = run_of(interrupt)
            raise interrupted from interrupt


app = typer.Typer(
    name="sparring",
    cls=Commands,
    help="Asynchronous adversarial training with an enforced staleness bound.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
config_app = typer.Typer(help="Show, describe and compare configurations.", no_args_is_help=True)
app.add_typer(config_app, name="config")
app.add_typer(access_commands)
app.add_typer(evaluation_commands)
app.add_typer(planning_commands)
app.add_typer(queue_commands)
app.add_typer(replay_commands)
app.add_typer(reporting_commands)
app.add_typer(studying_commands)
app.add_typer(worker_commands)

DETACHED_START_S = 60.0
OWN_OPTIONS = {
    *("--json", "--detach", "--best", "--help", "--timeout-s", "--as-trained", "--plot", "--save", "--format"),
    *("--out", "--version", "--install-completion", "--show-completion", "--seeds", "--devices", "--price"),
    *("--from", "--until", "--resume", "--again", "--gallery", "--no-gallery", "--image", "--grid", "--count"),
    *("--port", "--address", "--maxmemory", "--password-file", "--beside-port", "--log"),
}
OF_COMMAND = {  # own options of one command, beside those of all
    "access": {"--remove"},
    "lab": {"--size", "--data", "--results", "--runs", "--processes", "--num-gpus", "--pages"},
    "margins": {"--norm", "--attack"},
    "suggest": {"--minutes", "--train-minutes"},
    "verify": {"--epsilon", "--samples", "--processes"},
}
OF_PATHS = ("Symlink loop", "Could not determine home directory")  # what pathlib raises a RuntimeError for
COMMANDS_WITH_SETTINGS = {"train", "resume", "doctor", "explain", "calibrate", "suggest", "config show", "access"} | {
    *("evaluate", "verify", "compare", "transfer", "curves", "margins", "corruptions", "export", "report", "attack")
}


def main() -> None:
    """Run the command. An error prints one sentence; with --debug it prints a traceback."""
    begin_in_utf_8()
    with unfailing_streams():
        _run()


def _run() -> None:
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
        logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
    try:
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())  # so that module:factory is found, as with `python -m sparring`
        for argument in sys.argv[1:]:
            require_utf_8(argument)
        arguments, settings = split(sys.argv[1:])
        with interrupted_by_signals():
            code = app(arguments, prog_name="sparring", standalone_mode=False, obj=settings)
    except SparringError as error:
        if debug:
            raise
        _print_failed_run(run_of(error), "interrupted" if isinstance(error, Interrupted) else "failed")
        fail(str(error), error.exit_code)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        fail("interrupted", 130)
    except OSError as error:
        if debug:
            raise
        fail(str(file_failure(error)), 1)
    except Exception as error:
        if debug:
            raise
        _unexpected(error)
    sys.exit(code if isinstance(code, int) else 0)


def _unexpected(error: Exception) -> None:
    """Say what is wrong with an argument, where typer or pathlib tells, and else that it is a fault of ours."""
    format_message = getattr(error, "format_message", None)
    if format_message is not None:
        fail(format_message(), 2)
    if isinstance(error, RuntimeError) and str(error).startswith(OF_PATHS):
        fail(f"{error}. Give another path.", 2)
    _print_failed_run(run_of(error))
    if is_out_of_memory(error):
        reason = next(iter(str(error).splitlines()), "MemoryError")
        fail(f"out of memory ({reason}). Lower train.batch_size or evaluation.batch_size, or free memory.", 1)
    if of_user := users_failure(error):
        fail(str(of_user), of_user.exit_code)
    fail(f"{type(error).__name__}: {error} (this is a bug of Sparring; run again with --debug for a traceback)", 1)


def _print_failed_run(path: Path | None, phase: str = "failed") -> None:
    """Print the path of the run, if one failed, and how to continue it. Every command that makes a run prints its
    path."""
    if path is None:
        return
    note(f"`sparring resume {path}` continues from its last checkpoint, or from the beginning if there is none")
    if "--json" in sys.argv:
        out(json.dumps({"phase": phase, "run": str(path)}, indent=2))
    else:
        out(f"run: {path}")


def split(arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """Separate the command's own arguments from the settings (by name); a `--flag` without a value means true.

    This happens before the arguments are parsed, so that the value of a setting is never taken for the recipe.
    """
    own: list[str] = []
    settings: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument in ("--seeds", "--devices"):
            own += [argument, ",".join(_leading_numbers(rest))]
            continue
        if argument == "--image":
            own += [word for file in _leading_words(rest) for word in (argument, file)] or [argument]
            continue
        options = OWN_OPTIONS | OF_COMMAND.get(own[0] if own else "", set())
        if not argument.startswith("--") or argument.partition("=")[0] in options:
            own.append(argument)
            continue
        name, equals, value = argument[2:].partition("=")
        if not equals:
            has_value = rest and (not rest[0].startswith("--") or _is_number(rest[0]))
            value = rest.pop(0) if has_value else "true"
        settings[name] = value
    command = " ".join(own[: 2 if own[:1] == ["config"] else 1])
    if settings and command not in COMMANDS_WITH_SETTINGS:
        raise UsageError(f"--{next(iter(settings))}: `{f'sparring {command}'.strip()}` has no such option.")
    return own, settings


def _leading_numbers(arguments: list[str]) -> list[str]:
    """Take the whole numbers at the beginning of `arguments`."""
    found: list[str] = []
    while arguments and arguments[0].isdecimal():
        found.append(arguments.pop(0))
    return found


def _leading_words(arguments: list[str]) -> list[str]:
    """Take what stands at the beginning of `arguments` before the next option."""
    found: list[str] = []
    while arguments and not arguments[0].startswith("-"):
        found.append(arguments.pop(0))
    return found


def _print_version(asked: bool) -> None:
    if asked:
        out(f"sparring {version('sparring')}, torch {version('torch')}, Python {platform.python_version()}")
        raise typer.Exit


@app.callback()
def options(
    asked: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Asynchronous adversarial training with an enforced staleness bound."""


@app.command(epilog=HINT)
def train(
    context: typer.Context,
    recipe: Recipe = None,
    detach: Annotated[bool, typer.Option("--detach", help="Train in the background; print the run's folder.")] = False,
    seeds: Annotated[
        str | None, typer.Option("--seeds", metavar="N N ...", help="One run for each seed; mean and range at the end.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a robust model and evaluate it."""
    from sparring.commands.train import train as train_run

    config = configuration.load(recipe, context.obj)
    if seeds is not None:
        if {"seed", "train.seed"} & {*context.obj}:
            raise UsageError("--seeds with --seed: each run has a seed of --seeds. Leave out --seed.")
        if detach:
            raise UsageError("--seeds with --detach: the runs are made one after the other. Leave out --detach.")
        _train_with_seeds(config, seeds, as_json)
        return
    if detach:
        _detach(config)
        return
    _watched(config.data.name, lambda show: train_run(config, show), as_json)


@app.command(epilog=HINT)
def resume(context: typer.Context, run: RunPath, as_json: Json = False) -> None:
    """Continue a run from its last checkpoint, inside the epoch at exactly the same place."""
    from sparring.commands.train import resume as resume_run

    values: dict[str, str] = context.obj
    for name in values:
        configuration.require_known(SHORT_NAMES.get(name, name), "--")
    full = {SHORT_NAMES.get(name, name): value for name, value in values.items()}
    changes = {name: configuration.parse(name, value) for name, value in full.items()}
    _watched(run.name, lambda show: resume_run(run, changes, show), as_json)


@app.command()
def status(run: RunPath, as_json: Json = False) -> None:
    """Show the state of a run: phase, step, workers."""
    from sparring.commands.control import read_status

    run_status = read_status(open_run(run))
    if as_json:
        out(json.dumps(run_status, indent=2))
        return
    from sparring.observe.progress import step_line
    from sparring.observe.state import RunState

    state = RunState.from_dict({name: value for name, value in run_status.items() if name != "workers"})
    out(f"{'running' if run_status['alive'] else 'not running'}: {step_line(state)}")
    for name, fields in run_status["workers"].items():
        out(f"  {name}: {fields.get('shards', 0)} shards, version {fields.get('version')}, pid {fields.get('pid')}")


@app.command()
def runs(
    folder: Annotated[Path, typer.Argument(help="The folder that holds the runs (run.root).")] = Path("runs"),
    as_json: Json = False,
) -> None:
    """List the runs of a folder, the newest last, with their method and figures."""
    from sparring.commands.listing import list_runs, rows_of
    from sparring.observe.report import table

    found = list_runs(folder)
    if as_json:
        out(json.dumps(found, indent=2))
    else:
        Console().print(table(f"Runs in {folder}", rows_of(found)))
    for each in found:
        if each["error"] is not None:
            note(f"{each['run']}: {each['error']}")


@app.command()
def top(run: RunPath) -> None:
    """Watch a run that another process makes, until it ends. On a terminal the view is live, else lines are printed."""
    from sparring.commands.control import follow, require_running
    from sparring.observe.progress import Progress

    watched = open_run(run)
    require_running(watched)
    with Progress(watched.path.name, Console()) as progress:
        follow(watched, progress.update)


@app.command()
def stop(
    run: RunPath, timeout_s: Annotated[float, typer.Option(help="Seconds to wait for the end of the run.")] = 90.0
) -> None:
    """Stop a run after its current step. It writes a checkpoint and can be resumed."""
    from sparring.commands.control import stop_run

    phase = stop_run(open_run(run), timeout_s)
    ended = phase in ("finished", "incomplete", "failed")
    out(f"{phase} before it could be stopped: {run}" if ended else f"stopped: {run}")


@app.command(epilog=HINT)
def doctor(context: typer.Context, recipe: Recipe = None, as_json: Json = False) -> None:
    """Check whether this machine can make the run: packages, CUDA in a Ray actor, Redis, ports, disk, data, methods."""
    from sparring.commands.doctor import examine
    from sparring.observe.report import table

    checks = examine(configuration.load(recipe, context.obj))
    if as_json:
        out(json.dumps([check.as_dict() for check in checks], indent=2))
    else:
        lines = [{"": each.name, "state": "ok" if each.ok else "FAILED", "found": each.detail} for each in checks]
        Console().print(table("sparring doctor", lines))
        for failed in (each for each in checks if not each.ok):
            out(f"{failed.name}: {failed.remedy}")
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


@app.command()
def demo(as_json: Json = False) -> None:
    """Train on handwritten digits with two workers; compare with a plain model and with the synchronous loop."""
    from sparring.commands.demo import PREDICTION, run_demo

    result = run_demo(_show_for("demo: digits"), note)
    if as_json:
        out(json.dumps({**result.summary, "run": str(result.run.path), "report": result.report}, indent=2, default=str))
    else:
        if result.table is not None:
            Console().print(result.table)
            out(PREDICTION)
        if result.report is not None:
            out(f"report: {result.report}")
        out(f"run: {result.run.path}")
    _exit_by(result.phase)


@config_app.command("show", epilog=HINT)
def config_show(context: typer.Context, recipe: Recipe = None) -> None:
    """Print the whole resolved configuration as TOML."""
    out(configuration.to_toml(configuration.load(recipe, context.obj)))


@config_app.command("schema")
def config_schema() -> None:
    """Print the JSON Schema of all settings: description, unit, bounds, default."""
    out(json.dumps(Config.model_json_schema(), indent=2))


@config_app.command("diff")
def config_diff(left: Path, right: Path, as_json: Json = False) -> None:
    """Print the settings that differ between two recipes or run folders."""
    one, two = (
        configuration.config_of(open_run(path)) if path.is_dir() else configuration.load(path) for path in (left, right)
    )
    found = configuration.differences(one, two)
    if as_json:
        out(json.dumps(found, indent=2, default=str))
        return
    for name, (before, after) in found.items():
        out(f"{name}: {before} -> {after}")
    if not found:
        sys.stderr.write("no setting differs\n")


@app.command(hidden=True)
def attend(run: RunPath) -> None:
    """The background process of `train --detach`."""
    from sparring.commands.train import attend as attend_run

    attend_run(open_run(run))


def _watched(title: str, work: Callable[[Any], Any], as_json: bool) -> None:
    from sparring.observe.progress import Progress

    with Progress(title) as progress:
        result = work(progress.update)
    if as_json:
        out(json.dumps({**result.summary, "phase": result.phase, "run": str(result.run.path)}, indent=2))
    else:
        from sparring.observe.report import table

        Console().print(table(f"{result.run.path.name}: {_ending(result)}", rows(result.summary)))
        out(f"run: {result.run.path}")
    _exit_by(result.phase)


def _ending(result: Any) -> str:
    """The last phase; of an incomplete run also what it lacks."""
    if result.phase != "incomplete":
        return str(result.phase)
    missing, examples = result.summary["examples_missing"], result.summary["examples"]
    return (
        f"incomplete: {missing} of {missing + examples} examples were not trained on, since their attacks failed. "
        f"`sparring resume` makes them."
    )


def _exit_by(phase: str) -> None:
    """130 after an interrupt, 1 where examples are missing."""
    code = {"interrupted": 130, "incomplete": 1}.get(phase, 0)
    if code:
        raise typer.Exit(code)


def _train_with_seeds(config: Config, seeds: str, as_json: bool) -> None:
    from sparring.commands.several_seeds import numbers_of, train_with_seeds
    from sparring.observe.report import table

    trained = train_with_seeds(config, numbers_of(seeds), _show_for)
    if as_json:
        out(json.dumps(trained.as_dict(), indent=2))
    else:
        Console().print(table("Runs by seed", trained.rows()))
        for line in (*trained.warnings, *(f"run: {run['run']}" for run in trained.runs)):
            out(line)
    if trained.interrupted:
        raise typer.Exit(130)


def _show_for(title: str) -> Callable[..., Any]:
    from sparring.observe.progress import Progress

    return lambda: Progress(title)


def _detach(config: Config) -> None:
    """Create the run's folder here, so that its path can be printed, and train in a background process."""
    from sparring.commands.train import make_run

    run = make_run(config, note)
    with (run.path / "output.log").open("w") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "sparring", "attend", str(run.path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    _wait_until_started(run, child)
    out(f"run: {run.path}")


def _wait_until_started(run: Run, child: subprocess.Popen[bytes]) -> None:
    """Wait until the run has started; one that does not start leaves no folder.

    Raises:
        SparringError: it did not start; a UsageError if the request was wrong.
    """
    limit = time.monotonic() + DETACHED_START_S
    while time.monotonic() < limit:
        code = child.poll()
        if code == 0 or run.read_json("state.json") is not None:
            return
        if code is not None:
            output = (run.path / "output.log").read_text().strip().splitlines() or ["it printed nothing"]
            shutil.rmtree(run.path)
            kind = UsageError if code == UsageError.exit_code else SparringError
            raise kind(f"the run did not start: {output[-1].removeprefix('sparring: ')}")
        time.sleep(0.1)
    raise SparringError(f"the run in {run.path} has not started within {DETACHED_START_S:.0f} s; see output.log there.")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
