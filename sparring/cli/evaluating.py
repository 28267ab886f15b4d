"""The commands that evaluate, compare or export the weights of runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from sparring.cli.shell import Json, RunPath, out, periodic_notes, rows
from sparring.errors import UsageError
from sparring.runs import open_run

evaluation_commands = typer.Typer()
MOST_CLASSES = 20  # in a table
HINT = "Change the attack by settings such as --evaluation.steps 100 or --evaluation.samples 1000."
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with an evaluation that was begun; refuse if there is none.")
]
Again = Annotated[bool, typer.Option("--again", help="Forget what is known.")]
Best = Annotated[bool, typer.Option("--best", help="Use the best checkpoint on held-out data, not the last.")]


@evaluation_commands.command(epilog=HINT)
def evaluate(
    context: typer.Context,
    run: Annotated[
        Path,
        typer.Argument(help="A run folder; or a file of weights, with --model.name, --data.name, --attack.epsilon."),
    ],
    save: Annotated[
        Path | None, typer.Option("--save", help="Write the attacked images, in 8 bits, to this npz file.")
    ] = None,
    best: Best = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an evaluation that was begun; refuse if there is none.")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Forget the verdicts that are known.")] = False,
    until: Annotated[
        float | None,
        typer.Option("--until", help="Stop when the 95 % interval is this narrow: plus or minus so many points."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Evaluate the weights of a run, or of a file: accuracy on clean test images and under attack.

    With --workers N by N Ray workers. Verdicts are kept example by example: the same command goes on where it was.
    """
    from sparring.commands.evaluate import evaluate_run
    from sparring.commands.judging import How
    from sparring.commands.weights import evaluate_weights
    from sparring.observe.report import table

    if until is not None and not 0 < until < 50:
        raise UsageError(f"--until {until:g}: points between 0 and 50 are needed, such as 1.")
    how = How(resume, again, None if until is None else until / 100, keep_images=save is not None)
    if not run.exists():
        raise UsageError(f"{run} is not a run folder, nor a file of weights: it does not exist.")
    if run.is_file():
        if best or save is not None:
            raise UsageError(f"--{'best' if best else 'save'}: {run} is a file of weights. Only runs have that.")
        result = evaluate_weights(run, context.obj, how, progress=periodic_notes())
    else:
        result = evaluate_run(open_run(run), context.obj, best=best, progress=periodic_notes(), save=save, how=how)
    if as_json:
        out(json.dumps(result, indent=2))
        return
    classes = result.pop("by_class")
    Console().print(table(f"Evaluation of {run.name}", rows(result)))
    Console().print(table(*_lowest(classes)))


@evaluation_commands.command()
def verify(
    context: typer.Context,
    run: RunPath,
    epsilon: Annotated[
        float | None, typer.Option("--epsilon", help="Radius of the ball under L∞; by default that of the training.")
    ] = None,
    samples: Annotated[int, typer.Option("--samples", help="Test examples, each class in its share.")] = 100,
    timeout_s: Annotated[
        float, typer.Option("--timeout-s", help="Processor seconds for each example, after which it is left open.")
    ] = 60.0,
    processes: Annotated[
        int | None, typer.Option("--processes", help="Processes for the proofs; by default one for each core.")
    ] = None,
    best: Best = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a verification that was begun; refuse if there is none.")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Forget what is known of the examples.")] = False,
    as_json: Json = False,
) -> None:
    """Prove for each example that its ball holds no misclassified image, or show one. For small ReLU networks.

    What is found is kept example by example: the same command goes on where it was.
    """
    from sparring.commands.judging import How
    from sparring.commands.verify import Asked, verify_run
    from sparring.observe.report import table

    asked, how = Asked(epsilon, samples, timeout_s, processes), How(resume, again)
    result = verify_run(open_run(run), context.obj, asked, best=best, how=how, progress=periodic_notes())
    if as_json:
        out(json.dumps(result, indent=2))
        return
    del result["examples"]
    Console().print(table(f"Verification of {run.name}", rows(result)))


@evaluation_commands.command(epilog=HINT)
def transfer(
    context: typer.Context,
    runs: Annotated[
        list[Path],
        typer.Argument(help="Run folders with the same data, norm and radius: two or more; one with --from."),
    ],
    folder: Annotated[
        Path | None,
        typer.Option("--from", help="Attack the run by every run and file of weights in this folder."),
    ] = None,
    as_trained: Annotated[
        bool,
        typer.Option("--as-trained", help="Attack each source with the attack that it was trained with."),
    ] = False,
    best: Best = False,
    resume: Resume = False,
    again: Again = False,
    as_json: Json = False,
) -> None:
    """Evaluate each run on the adversarial examples of all others, or one run on those of a folder of sources.

    A model that is robust only to its own examples has masked gradients. What is found is kept batch by batch: the same
    command goes on where it was.
    """
    from sparring.commands.judging import How
    from sparring.commands.transferring import transfer_from, transfer_runs

    opened, how = [open_run(path) for path in runs], How(resume, again)
    if folder is not None:
        if len(opened) > 1 or as_trained:
            raise UsageError(f"--from {folder} takes one run, and attacks as that is evaluated. Leave out the rest.")
        found = transfer_from(opened[0], folder, context.obj, best=best, progress=periodic_notes(), how=how)
        _show_sources(found, as_json)
        return
    matrix = transfer_runs(opened, context.obj, best=best, as_trained=as_trained, progress=periodic_notes(), how=how)
    if as_json:
        out(json.dumps(matrix, indent=2))
        return
    from sparring.observe.report import table

    Console().print(table(f"Robust accuracy of each target, {_examples(matrix)}", _matrix_rows(matrix)))
    out(
        f"Rows: the source of the adversarial examples. Columns: the target that is evaluated on them. In brackets: "
        f"95 % intervals. {_examples(matrix)}."
    )
    for warning in matrix["warnings"]:
        out(warning)


def _show_sources(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        out(json.dumps(found, indent=2))
        return
    from sparring.observe.report import table

    columns = zip(found["sources"], found["accuracy"], found["interval"], strict=True)
    rows_of = [
        {"source": "none, clean images", "accuracy": _with_interval(found["clean"], found["clean_interval"])},
        *({"source": name, "accuracy": _with_interval(share, bounds)} for name, share, bounds in columns),
        {"source": "all of these, worst case", "accuracy": _with_interval(found["worst"], found["worst_interval"])},
        {"source": "itself", "accuracy": _with_interval(found["itself"], found["itself_interval"])},
    ]
    Console().print(table(f"{found['name']} on examples of others, {_examples(found)}", rows_of))
    passed_over = [f"Passed over: {name}: {reason}" for name, reason in found["passed_over"].items()]
    for line in (f"Attack: {found['attack']}.", *found["warnings"], *passed_over):
        out(line)


@evaluation_commands.command(epilog=HINT)
def compare(
    context: typer.Context,
    runs: Annotated[list[Path], typer.Argument(help="Two or more run folders with the same data.")],
    best: Best = False,
    as_json: Json = False,
) -> None:
    """Compare runs on the same test examples: do their robust accuracies differ? (McNemar's test.)"""
    from sparring.commands.comparing import compare_runs

    found = compare_runs([open_run(path) for path in runs], context.obj, best=best, progress=periodic_notes())
    if as_json:
        out(json.dumps(found, indent=2))
        return
    from sparring.observe.report import table

    Console().print(table(f"{found['attack']}, {_examples(found)}", [_accuracies(each) for each in found["runs"]]))
    Console().print(table("Differences of robust accuracy", [_difference(each) for each in found["pairs"]]))
    out(
        "Only first, only second: examples that are robust under one of the two alone. p: McNemar's exact two-sided "
        "test, corrected for the number of pairs (Holm)."
    )
    for warning in found["warnings"]:
        out(warning)


@evaluation_commands.command(epilog=HINT)
def curves(
    context: typer.Context,
    run: RunPath,
    plot: Annotated[Path | None, typer.Option("--plot", help="Write a plot of both curves to this PNG file.")] = None,
    best: Best = False,
    resume: Resume = False,
    again: Again = False,
    as_json: Json = False,
) -> None:
    """Robust accuracy by ε and by number of steps, and a verdict on masked gradients with its evidence.

    With --workers N by N Ray workers. What is found is kept batch by batch: the same command goes on where it was.
    """
    from sparring.commands.evaluate import curves_of_run
    from sparring.commands.judging import How
    from sparring.evaluation.plots import draw, require_drawable

    if plot is not None:
        require_drawable(plot)
    how = How(resume, again)
    result = curves_of_run(open_run(run), context.obj, best=best, progress=periodic_notes(), how=how)
    if plot is not None:
        draw(result, run.name, plot)
    if as_json:
        out(json.dumps(result, indent=2))
        return
    from sparring.observe.report import table

    points = [*result["by_epsilon"], *result["by_steps"], *([result["black_box"]] if result["black_box"] else [])]
    lines = [
        {"attack": each["attack"], "robust accuracy": _with_interval(each["robust_accuracy"], each["robust_interval"])}
        for each in points
    ]
    Console().print(table(f"{run.name}, {_examples(result)}", lines))
    for line in [*result["warnings"], *_verdict_lines(result["masking"]), result["rule"]]:
        out(line)


@evaluation_commands.command(epilog="Settings such as --evaluation.samples 200 choose the examples.")
def margins(
    context: typer.Context,
    run: RunPath,
    norm: Annotated[str | None, typer.Option("--norm", help="linf, l2 or l1; by default that of the run.")] = None,
    attack: Annotated[
        str, typer.Option("--attack", help="fab, cw (Carlini and Wagner, under l2), or both: fab,cw.")
    ] = "fab",
    best: Best = False,
    resume: Resume = False,
    again: Again = False,
    as_json: Json = False,
) -> None:
    """How small a perturbation breaks each example: quantiles, by minimum-norm attacks.

    With --workers N by N Ray workers. What is found is kept batch by batch: the same command goes on where it was.
    """
    from sparring.commands.evaluate import margins_of_run
    from sparring.commands.judging import How
    from sparring.observe.report import table

    attacks, how = tuple(attack.split(",")), How(resume, again)
    result = margins_of_run(open_run(run), context.obj, norm, attacks, best=best, progress=periodic_notes(), how=how)
    if as_json:
        out(json.dumps(result, indent=2))
        return
    apart = result["by_attack"] if len(attacks) > 1 else {}
    lines = [
        {
            "share of the examples": f"{100 * float(share):g} %",
            "broken within": _size(size),
            **{f"by {name}": _size(found[share]) for name, found in apart.items()},
        }
        for share, size in result["quantiles"].items()
    ]
    Console().print(table(f"{run.name}, {result['attack']}, {_examples(result)}", lines))
    if "epsilon" in result:
        above = _with_interval(result["share_above_epsilon"], result["interval"])
        out(f"Nothing within ε = {result['epsilon']:g} found for {above}: an upper bound of the robust accuracy.")
    for line in (
        *result["warnings"],
        f"Examples: {result['drawn']}; {result['misclassified']} misclassified as they are.",
    ):
        out(line)


def _size(size: float | None) -> str:
    return "not found" if size is None else f"{size:.4g}"


@evaluation_commands.command(
    epilog="--corruptions.root DIR: read CIFAR-10-C or CIFAR-100-C instead of generating them."
)
def corruptions(
    context: typer.Context,
    run: RunPath,
    best: Best = False,
    resume: Resume = False,
    again: Again = False,
    as_json: Json = False,
) -> None:
    """Accuracy under the 15 common corruptions at 5 severities.

    With --workers N by N Ray workers. What is found is kept batch by batch: the same command goes on where it was.
    """
    from sparring.commands.evaluate import corruptions_of_run
    from sparring.commands.judging import How

    how = How(resume, again)
    result = corruptions_of_run(open_run(run), context.obj, best=best, progress=periodic_notes(), how=how)
    if as_json:
        out(json.dumps(result, indent=2))
        return
    from sparring.observe.report import table

    title = f"{run.name}: {result['source']}, {_examples(result)}, severities 1 to 5 and their mean"
    Console().print(table(title, _corruption_rows(result)))
    for warning in result["warnings"]:
        out(warning)


@evaluation_commands.command()
def export(
    context: typer.Context,
    run: RunPath,
    kind: Annotated[str, typer.Option("--format", help="robustbench, safetensors, onnx or card.")],
    path: Annotated[Path, typer.Option("--out", help="The file to write; an existing one is never overwritten.")],
    best: Best = False,
) -> None:
    """Write the model of a run to a file for other tools. It takes images in [0, 1] and normalises inside."""
    from sparring.commands.export import export_run

    for file in export_run(open_run(run), kind, path, context.obj, best=best):
        out(str(file))


def _accuracies(figures: dict[str, Any]) -> dict[str, object]:
    of = {
        name: _with_interval(figures[f"{name}_accuracy"], figures[f"{name}_interval"]) for name in ("clean", "robust")
    }
    return {"run": figures["run"], "clean accuracy": of["clean"], "robust accuracy": of["robust"]}


def _difference(pair: dict[str, Any]) -> dict[str, object]:
    low, high = (100 * end for end in pair["interval"])
    return {
        "first": pair["first"],
        "second": pair["second"],
        "only first": pair["only_first"],
        "only second": pair["only_second"],
        "difference in points": f"{100 * pair['difference']:+.1f} ({low:+.1f} to {high:+.1f})",
        "p": f"{pair['p_value']:.2g}",
    }


def _verdict_lines(masking: dict[str, Any]) -> list[str]:
    """The verdict on masked gradients, and a line for each piece of evidence."""
    lines = [f"Verdict: {masking['verdict']}. {masking['note']}"]
    for each in masking["evidence"]:
        figures = [f"p = {each['p_value']:.2g}"] if each["p_value"] is not None else []
        if each["interval"] is not None:
            low, high = (100 * end for end in each["interval"])
            figures.append(f"95 % interval {low:.1f} to {high:.1f} %")
        says = "points to masking" if each["points"] else "no sign"
        lines.append(f"- {each['name']}, {says}: {each['measured']} ({', '.join(figures)})")
    return lines


def _examples(result: dict[str, Any]) -> str:
    """Such as: 100 test examples (drawn from 360 with seed 0, each class in its share)."""
    return f"{result['samples']} test examples ({result['drawn']})"


def _lowest(classes: list[dict[str, Any]]) -> tuple[str, list[dict[str, object]]]:
    """Title and rows of the table of the classes; of many, those with the lowest robust accuracy."""
    shown = sorted(classes, key=lambda each: float(each["robust_accuracy"]))[:MOST_CLASSES]
    some = len(shown) < len(classes)
    title = f"The {len(shown)} of {len(classes)} classes that are least robust" if some else "By class"
    return title, [
        {
            "class": each["label"],
            "samples": each["samples"],
            "clean accuracy": each["clean_accuracy"],
            "robust accuracy": _with_interval(each["robust_accuracy"], each["robust_interval"]),
        }
        for each in (shown if some else classes)
    ]


def _matrix_rows(matrix: dict[str, Any]) -> list[dict[str, object]]:
    names = matrix["names"]
    lines: list[dict[str, object]] = [
        {"source": "clean images"} | _by_target(names, matrix["clean"], matrix["clean_interval"])
    ]
    for name, attack, shares, intervals in zip(
        names, matrix["attacks"], matrix["accuracy"], matrix["interval"], strict=True
    ):
        lines.append({"source": f"{name}: {attack}"} | _by_target(names, shares, intervals))
    return lines


def _by_target(names: list[str], shares: list[float], intervals: list[Any]) -> dict[str, object]:
    shown = [_with_interval(share, interval) for share, interval in zip(shares, intervals, strict=True)]
    return dict(zip(names, shown, strict=True))


def _corruption_rows(result: dict[str, Any]) -> list[dict[str, object]]:
    lines: list[dict[str, object]] = [
        {"": "clean", "mean": _with_interval(result["clean_accuracy"], result["clean_interval"])}
    ]
    for each in result["corruptions"]:
        by_severity = {str(n): f"{100 * share:.1f}" for n, share in enumerate(each["accuracy"], 1)}
        lines.append({"": each["corruption"], "mean": _with_interval(each["mean_accuracy"], each["mean_interval"])})
        lines[-1] |= by_severity
    return [*lines, {"": "all", "mean": _with_interval(result["corrupted_accuracy"], result["corrupted_interval"])}]


def _with_interval(share: float, interval: tuple[float, float]) -> str:
    """Such as 84.4 % (81.9 to 86.5), with the 95 % interval in brackets."""
    return f"{100 * share:.1f} % ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"
