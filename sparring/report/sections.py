"""The sections of a report that show figures: what each says of the runs, and of what is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import get_args

from sparring.observe.state import SMOOTHED_STEPS, staleness_summary
from sparring.report import charts, series
from sparring.report.figures import Figures, Point
from sparring.report.parts import MOST_ROWS, Card, Chart, Row, Section, Table, duration, percent, table, text
from sparring.report.records import Records

Runs = Sequence[Records]
Drawn = Callable[[], charts.Spec]
NO_CHARTS = "The charts need Altair and vl-convert: pip install 'sparring[report]'. Their values are in the tables."


def figures_section(runs: Runs) -> Section:
    """The headline figures of all runs, each with interval, attack and number of examples."""
    notes = [f"{name}: {warning}" for records in runs for name, warning in _warnings(records)]
    if all(records.figures is None and records.evaluation is None for records in runs):
        notes.append("No accuracy was measured on the test set: `sparring evaluate RUN` does it.")
    rows = [row for records in runs for row in _accuracies(records)]
    columns = ("run", "weights", "robust accuracy", "clean accuracy", "examples", "attack")
    accuracies = table("Accuracies on test examples, with 95 % intervals", columns, rows)
    tables = (*((accuracies,) if rows else ()), _training_table(runs))
    return Section("figures", "Figures", tuple(notes), tables=tables, cards=_cards(runs[0]) if len(runs) == 1 else ())


def _cards(records: Records) -> tuple[Card, ...]:
    """The figures that one looks for first."""
    found, state, cards = records.evaluation or records.figures, records.state, []
    if found is not None and found.robust_accuracy is not None:
        on = f"of {found.samples:,} test examples"
        robust, clean = _card_interval(found.robust_interval), _card_interval(found.clean_interval)
        cards.append(Card("Robust accuracy", percent(found.robust_accuracy), robust, f"{on}; {found.attack}"))
        cards.append(Card("Clean accuracy", percent(found.clean_accuracy), clean, on))
    shards = sum(state.staleness.values())
    if shards:
        mean, highest = staleness_summary(state.staleness)
        detail = f"highest {highest}, bound {state.max_staleness}; {shards:,} shards"
        cards.append(Card("Staleness, mean", f"{mean:.2f}", "steps", detail))
    if state.seconds:
        rate = f"{state.examples:,} examples, {text(state.examples_per_second)} a second"
        cards.append(Card("Training time", duration(state.seconds), "", rate))
    return tuple(cards)


def _card_interval(interval: tuple[float, float] | None) -> str:
    return "no interval recorded" if interval is None else f"95 %: {100 * interval[0]:.1f} to {100 * interval[1]:.1f}"


def _warnings(records: Records) -> list[tuple[str, str]]:
    found = [records.figures, records.average, records.evaluation]
    texts = [warning for each in found if each is not None for warning in each.warnings or ()]
    return [(records.name, each) for each in dict.fromkeys((*records.remarks, *texts))]


def _accuracies(records: Records) -> list[tuple[object, ...]]:
    listed = [
        ("end of training", records.figures),
        ("end of training, average", records.average),
        (_of_evaluation(records.evaluation), records.evaluation),
    ]
    return [
        (
            records.name,
            what,
            percent(found.robust_accuracy, found.robust_interval),
            percent(found.clean_accuracy, found.clean_interval),
            f"{found.samples:,} ({found.drawn or 'which is not recorded'})",
            found.attack,
        )
        for what, found in listed
        if found is not None and found.robust_accuracy is not None
    ]


def _of_evaluation(found: Figures | None) -> str:
    """Which weights the last `sparring evaluate` was of."""
    if found is None:
        return ""
    return f"{found.checkpoint or 'checkpoint unknown'}{', average' if found.weights == 'ema' else ''}"


def _training_table(runs: Runs) -> Table:
    """One column per run."""
    rows: list[tuple[str, Callable[[Records], object]]] = [
        ("method", lambda each: each.state.method or each.summary.get("method")),
        ("engine", lambda each: each.state.engine or each.summary.get("engine")),
        ("data", lambda each: each.state.data or each.state.dataset),
        ("phase", lambda each: each.state.phase),
        ("steps", lambda each: f"{each.state.step:,} of {each.state.total_steps:,}"),
        ("examples trained on", lambda each: each.state.examples),
        ("training time", lambda each: duration(each.state.seconds)),
        ("examples per second, mean", lambda each: each.state.examples_per_second),
        ("staleness, mean / highest / bound", _staleness),
        ("shards trained on", lambda each: sum(each.state.staleness.values())),
        ("shards dropped and made again", lambda each: _by_name(each.state.dropped)),
        ("examples missing", lambda each: each.state.missing),
        ("input gradients per example", lambda each: each.summary.get("gradients_per_example")),
        ("returns to a checkpoint", lambda each: each.state.rollbacks),
    ]
    lines = [(name, *(text(of(records)) for records in runs)) for name, of in rows]
    return table("Training", ("", *(records.name for records in runs)), lines)


def _staleness(records: Records) -> str:
    mean, highest = staleness_summary(records.state.staleness)
    return f"{mean:.2f} / {highest} / {records.state.max_staleness} steps"


def _by_name(counts: dict[str, int]) -> str:
    found = {name: count for name, count in counts.items() if count}
    return ", ".join(f"{name}: {count:,}" for name, count in found.items()) or "0"


def learning_section(runs: Runs) -> Section:
    """Accuracy and loss against steps, examples and seconds."""
    accuracy = [*series.over_time(runs, series.ACCURACIES), *series.judged(runs)]
    loss = series.over_time(runs, series.LOSS)
    if not accuracy and not loss:
        return Section("learning", "Accuracy and loss", ("There are no lines in metrics.jsonl to draw.",))
    note = (
        f"Training accuracy and loss are means over the last {SMOOTHED_STEPS} steps, on the attacked examples that "
        f"were trained on, while the learning rate changes and ε may still rise. {_heldout(runs)}"
    )
    found = []
    for along, said in series.ALONG.items():
        found.append(_line_chart(runs, accuracy, along, "Accuracy", f"Accuracy against {said}.", ".0%"))
        found.append(_line_chart(runs, loss, along, "Loss", f"Training loss against {said}.", "~g"))
    return Section("learning", "Accuracy and loss", (note,), tuple(found))


def _heldout(runs: Runs) -> str:
    samples = {records.name: records.state.heldout_samples for records in runs if records.state.heldout_samples}
    judged = {records.name: records.state.rolling_samples for records in runs if records.state.rolling_samples}
    by_workers = f" Held-out examples judged by AutoAttack: {_by_name(judged)}." if judged else ""
    if not samples:
        return by_workers.strip() or (
            "Accuracy on held-out examples was not measured: train.evaluate_every_epochs was 0."
        )
    return f"Held-out examples: {_by_name(samples)}.{by_workers}"


def _line_chart(runs: Runs, rows: Sequence[series.Row], along: str, title: str, caption: str, form: str) -> Chart:
    shown = percent if form == ".0%" else text
    values = [(row[along], row["run"], row["measure"], shown(row["value"])) for row in rows]
    columns = (series.ALONG[along], "run", "what", title.lower())
    return Chart(
        f"{title.lower()}-{along}",
        title,
        caption,
        _spec(lambda: charts.lines(rows, along, title.lower(), form=form, runs=_names(runs))),
        table(caption, columns, values, MOST_ROWS * len(runs)),
        along,
    )


def _names(runs: Runs) -> list[str]:
    return [records.name for records in runs]


def _spec(draw: Drawn) -> charts.Spec | None:
    return draw() if charts.installed() else None


def curves_section(runs: Runs) -> Section:
    """Robust accuracy against ε and against attack steps."""
    title, missing = "Stronger attacks", [records.name for records in runs if records.curves is None]
    notes = [f"{name} has no curves.json: `sparring curves RUN` makes it." for name in missing]
    for records in runs:
        curves = records.curves
        if curves is not None:
            notes += [f"{records.name}: {curves.samples:,} test examples ({curves.drawn})."]
            notes += [f"{records.name}: {warning}" for warning in curves.warnings]
            verdict = curves.masking
            notes += [f"{records.name}: {verdict.verdict}. {verdict.note}"] if verdict is not None else []
            notes += [f"{records.name}: {_black_box(curves.black_box)}"] if curves.black_box is not None else []
    drawn = [_curve(runs, along) for along in get_args(series.Along) if series.points(runs, along)]
    return Section("curves", title, tuple(notes), tuple(drawn))


def _black_box(point: Point) -> str:
    return f"{point.attack}: {percent(point.robust_accuracy, point.robust_interval)}."


def _curve(runs: Runs, along: series.Along) -> Chart:
    rows = series.points(runs, along)
    shown = series.within_reach(rows, runs) if along == "epsilon" else rows
    trained = {records.curves.trained_epsilon for records in runs if records.curves}
    line = trained.pop() if len(trained) == 1 else None
    said = "ε" if along == "epsilon" else "attack steps"
    caption = f"Robust accuracy against {said}, with 95 % intervals."
    values = [(row["at"], row["run"], row["attack"], _share(row), row["samples"]) for row in rows]
    return Chart(
        f"curve-{along}",
        f"Against {said}",
        caption,
        _spec(lambda: charts.curve(shown, along, line, runs=_names(runs))),
        table(caption, (said, "run", "attack", "robust accuracy", "examples"), values),
    )


def _share(row: series.Row) -> str:
    return percent(row["value"], (row["low"], row["high"]))


def classes_section(runs: Runs) -> Section:
    """Robust accuracy of each class."""
    rows = series.by_class(runs)
    missing = [records.name for records in runs if not (records.evaluation and records.evaluation.by_class)]
    notes = [f"{name} has no accuracies by class: `sparring evaluate RUN` makes them." for name in missing]
    notes += [f"{records.name}: {records.evaluation.attack}." for records in runs if records.evaluation]
    if not rows:
        return Section("classes", "By class", tuple(notes))
    many = len({row["class"] for row in rows}) > charts.MOST_CLASSES
    caption = "Robust accuracy by class, with 95 % intervals." + (
        f" The chart has the {charts.MOST_CLASSES} least robust." if many else ""
    )
    values = [(row["class"], row["run"], _share(row), percent(row["clean"]), row["samples"]) for row in rows]
    chart = Chart(
        "classes",
        "Robust accuracy by class",
        caption,
        _spec(lambda: charts.classes(rows, runs=_names(runs))),
        table(caption, ("class", "run", "robust accuracy", "clean accuracy", "examples"), values),
    )
    return Section("classes", "By class", tuple(notes), (chart,))


def staleness_section(runs: Runs) -> Section:
    """The staleness of the shards that were trained on, beside the bound."""
    rows = series.staleness(runs)
    if not rows:
        return Section("staleness", "Staleness", ("No shards were counted, so there is no staleness to show.",))
    counted = {records.name: sum(records.state.staleness.values()) for records in runs}
    synchronous = [each.name for each in runs if each.state.engine in ("sync", "ddp", "free")]
    notes = [f"Shards that were trained on: {_by_name(counted)}."]
    notes += [f"{name} is synchronous: every attack used the weights that then trained on it." for name in synchronous]
    caption = "Share of shards by staleness: optimizer steps since the weights that attacked them. Line: the bound."
    values = [
        (row["staleness"], row["run"], row["shards"], percent(row["share"], places=2), row["bound"]) for row in rows
    ]
    chart = Chart(
        "staleness-histogram",
        "Staleness against its bound",
        caption,
        _spec(lambda: charts.histogram(rows, runs=_names(runs))),
        table(caption, ("staleness", "run", "shards", "share", "bound"), values),
    )
    return Section("staleness", "Staleness", tuple(notes), (chart,))


def speed_section(runs: Runs) -> Section:
    """Throughput, and who waited for whom."""
    rates, waits = series.throughput(runs), series.waited(runs)
    drawn = []
    if rates:
        caption = "Examples trained on per second, between two records."
        drawn.append(replace(_line_chart(runs, rates, "seconds", "Throughput", caption, "~s"), along=""))
    if waits:
        caption = "Where the time of the trainer and of all workers together went."
        values = [(row["who"], row["what"], row["seconds"], percent(row["share"])) for row in waits]
        spec = _spec(lambda: charts.shares(waits))
        listed = table(caption, ("who", "what", "seconds", "share of its time"), values)
        drawn.append(Chart("waits", "Who waited", caption, spec, listed))
    notes = () if drawn else ("There are no records of time.",)
    return Section("speed", "Throughput and waits", notes, tuple(drawn), _workers(runs))


def _workers(runs: Runs) -> tuple[Table, ...]:
    """Shards trained on by who attacked them; empty where no worker has a name."""
    rows = [
        (records.name, worker, count, percent(count / sum(records.shards.values())))
        for records in runs
        for worker, count in sorted(records.shards.items())
    ]
    columns = ("run", "attacked by", "shards", "share")
    return (table("Shards that were trained on, by who attacked them", columns, rows),) if rows else ()


def allocator_section(runs: Runs) -> Section:
    """The shares of the allocator's classes; one chart per run."""
    drawn, notes = [], []
    for number, records in enumerate(runs):
        rows = series.allocated(records)
        if not rows:
            notes.append(f"{records.name}: no allocator, every example got all attack steps.")
            continue
        caption = f"{records.name}: examples by the allocator's class, between two records."
        values = [(row["step"], row["class"], row["examples"], percent(row["share"])) for row in rows]
        drawn.append(
            Chart(
                f"allocated-{number}",
                records.name,
                caption,
                _spec(lambda rows=rows: charts.areas(rows)),  # type: ignore[misc]
                table(caption, ("steps", "class", "examples", "share"), values, 3 * MOST_ROWS),
            )
        )
        notes.append(f"{records.name}, whole run: {_by_name(dict(records.state.allocated))} examples.")
    return Section("allocator", "Allocator", tuple(notes), tuple(drawn))


def guards_section(runs: Runs) -> Section:
    """What the guards have measured and done."""
    rows = [row for row in series.over_time(runs, series.GAP) if row["step"]]
    notes = [] if rows else ["The gap between fresh and stale shards was not measured (staleness.gap_every)."]
    drawn = []
    if rows:
        caption = (
            "Accuracy under a fresh attack minus that under the stale one, on the same shard: below 0 the stale attack "
            "was weaker. Dashed: 0, and where the staleness guard acts, if it is on."
        )
        on = [each.config.guard.staleness_threshold for each in runs if each.config and each.config.guard.staleness]
        threshold = on[0] if len(set(on)) == 1 else None
        values = [(row["step"], row["run"], f"{100 * row['value']:+.2f}") for row in rows]
        spec = _spec(lambda: charts.gap(rows, threshold, runs=_names(runs)))
        listed = table(caption, ("steps", "run", "points"), values, MOST_ROWS * len(runs))
        drawn.append(Chart("gap", "Fresh minus stale", caption, spec, listed))
    did: list[tuple[str, Callable[[Records], object]]] = [
        ("returns after non-finite values", lambda each: each.state.rollbacks),
        ("returns of the overfitting guard", lambda each: each.state.overfittings),
        ("PGD accuracy at its last probe", lambda each: percent(each.state.guard_accuracy)),
        ("decisions of the staleness guard", lambda each: _by_name(each.state.staleness_decisions)),
        ("examples whose attack had a gradient of zero", lambda each: each.state.attack_zero_gradients),
        ("examples whose gradients were not finite", lambda each: each.state.attack_non_finite_gradients),
        ("steps skipped after an fp16 overflow", lambda each: each.state.skipped_steps),
    ]
    lines = [Row((name, *(text(of(records)) for records in runs))) for name, of in did]
    acted = Table("What the guards did", ("", *(records.name for records in runs)), tuple(lines))
    return Section("guards", "Guards", tuple(notes), tuple(drawn), (acted,))
