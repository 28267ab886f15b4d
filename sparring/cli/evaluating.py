"""The commands that judge a run's weights or hand them on: evaluate, transfer, curves, corruptions, export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from sparring.cli.shell import Json, RunPath, now_and_then, out, rows
from sparring.runs import open_run

judging = typer.Typer()
HINT = "--evaluation.steps 100, --evaluation.samples 1000 and the like change how it is attacked."
Best = Annotated[bool, typer.Option("--best", help="The best checkpoint on held-out data, not the last.")]


@judging.command(epilog=HINT)
def evaluate(context: typer.Context, run: RunPath, best: Best = False, as_json: Json = False) -> None:
    """Judge the weights of a run: accuracy on clean test images and under attack."""
    from sparring.commands.evaluate import evaluate_run
    from sparring.observe.report import table

    result = evaluate_run(open_run(run), context.obj, best=best, progress=now_and_then())
    if as_json:
        out(json.dumps(result, indent=2))
        return
    Console().print(table(f"Evaluation of {run.name}", rows(result)))


@judging.command(epilog=HINT)
def transfer(
    context: typer.Context,
    runs: Annotated[list[Path], typer.Argument(help="Two run folders or more, of the same data and threat.")],
    as_trained: Annotated[
        bool, typer.Option("--as-trained", help="Each source attacks as it was trained, not as the evaluation does.")
    ] = False,
    best: Best = False,
    as_json: Json = False,
) -> None:
    """Try each run's adversarial examples on all the others: what withstands only its own has masked gradients."""
    from sparring.commands.evaluate import transfer_runs

    opened = [open_run(path) for path in runs]
    told = transfer_runs(opened, context.obj, best=best, as_trained=as_trained, progress=now_and_then())
    if as_json:
        out(json.dumps(told, indent=2))
        return
    from sparring.observe.report import table

    Console().print(table(f"Robust accuracy of each target, {told['samples']} test examples", _matrix_rows(told)))
    out(
        f"rows: whose examples; columns: who is given them; in brackets 95 % intervals; {told['samples']} test examples"
    )


@judging.command(epilog=HINT)
def curves(
    context: typer.Context,
    run: RunPath,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw both curves into this PNG file.")] = None,
    best: Best = False,
    as_json: Json = False,
) -> None:
    """Robust accuracy against ε and against steps, and whether that looks like masked gradients."""
    from sparring.commands.evaluate import curves_of_run
    from sparring.evaluation.plots import draw, require_drawable

    if plot is not None:
        require_drawable(plot)
    told = curves_of_run(open_run(run), context.obj, best=best, progress=now_and_then())
    if plot is not None:
        draw(told, run.name, plot)
    if as_json:
        out(json.dumps(told, indent=2))
        return
    from sparring.observe.report import table

    points = [*told["by_epsilon"], *told["by_steps"], *([told["black_box"]] if told["black_box"] else [])]
    lines = [
        {"attack": each["attack"], "robust accuracy": _with_reach(each["robust_accuracy"], each["robust_interval"])}
        for each in points
    ]
    Console().print(table(f"{run.name}, {told['samples']} test examples", lines))
    for warning in told["warnings"] or ["Nothing looks masked."]:
        out(warning)
    out(told["rule"])


@judging.command(epilog="--corruptions.root DIR reads CIFAR-10-C or CIFAR-100-C; without it they are made here.")
def corruptions(context: typer.Context, run: RunPath, best: Best = False, as_json: Json = False) -> None:
    """Accuracy under the 15 common corruptions at 5 severities."""
    from sparring.commands.evaluate import corruptions_of_run

    told = corruptions_of_run(open_run(run), context.obj, best=best, progress=now_and_then())
    if as_json:
        out(json.dumps(told, indent=2))
        return
    from sparring.observe.report import table

    title = f"{run.name}: {told['source']}, {told['samples']} test examples, severities 1 to 5 and their mean"
    Console().print(table(title, _corruption_rows(told)))


@judging.command()
def export(
    context: typer.Context,
    run: RunPath,
    kind: Annotated[str, typer.Option("--format", help="robustbench, safetensors or onnx.")],
    path: Annotated[Path, typer.Option("--out", help="The file to write; an existing one is never overwritten.")],
    best: Best = False,
) -> None:
    """Write a run's model for others; it takes images in [0, 1], normalisation is inside."""
    from sparring.commands.export import export_run

    for file in export_run(open_run(run), kind, path, context.obj, best=best):
        out(str(file))


def _matrix_rows(told: dict[str, Any]) -> list[dict[str, object]]:
    lines: list[dict[str, object]] = [
        {"source": "clean images"} | _by_target(told["names"], told["clean"], told["clean_interval"])
    ]
    for name, attack, shares, reaches in zip(
        told["names"], told["attacks"], told["accuracy"], told["interval"], strict=True
    ):
        lines.append({"source": f"{name}: {attack}"} | _by_target(told["names"], shares, reaches))
    return lines


def _by_target(names: list[str], shares: list[float], reaches: list[Any]) -> dict[str, object]:
    shown = [_with_reach(share, reach) for share, reach in zip(shares, reaches, strict=True)]
    return dict(zip(names, shown, strict=True))


def _corruption_rows(told: dict[str, Any]) -> list[dict[str, object]]:
    lines: list[dict[str, object]] = [
        {"": "clean", "mean": _with_reach(told["clean_accuracy"], told["clean_interval"])}
    ]
    for each in told["corruptions"]:
        by_severity = {str(n): f"{100 * share:.1f}" for n, share in enumerate(each["accuracy"], 1)}
        lines.append({"": each["corruption"], "mean": _with_reach(each["mean_accuracy"], each["mean_interval"])})
        lines[-1] |= by_severity
    return [*lines, {"": "all", "mean": _with_reach(told["corrupted_accuracy"], told["corrupted_interval"])}]


def _with_reach(share: float, reach: tuple[float, float]) -> str:
    """84.4 % (81.9 to 86.5), the 95 % interval in brackets."""
    return f"{100 * share:.1f} % ({100 * reach[0]:.1f} to {100 * reach[1]:.1f})"
