"""The charts of a report as Vega-Lite, made by Altair: one function for each kind, from rows to a specification.

Text and axes take the page's colour, so a chart is right in dark and light; the colours of the series have a contrast
of at least 3.6 with both grounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparring.report.series import ALONG, Along, Row

Spec = dict[str, Any]
COLOURS = ["#2f7de1", "#c2560c", "#1f8a5b", "#a44fc4", "#8a6d00", "#cf3f6b", "#0f8a94", "#6f7680"]
INK = "currentColor"
WIDTH, HEIGHT = 440, 260  # without scripts; with them a chart is as wide as its place
FEW = 25  # points of a series that are drawn as points
MOST_CLASSES = 20
CONFIG: Spec = {
    "aria": False,  # the figure around it has the description, and its values as a table
    "background": None,
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "range": {"category": COLOURS},
    "axis": {
        "labelColor": INK,
        "titleColor": INK,
        "domainColor": INK,
        "tickColor": INK,
        "gridColor": INK,
        "gridOpacity": 0.15,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titlePadding": 8,
        "labelOverlap": True,
    },
    "legend": {
        "labelColor": INK,
        "symbolBaseStrokeColor": INK,
        "layout": {"top": {"direction": "vertical", "anchor": "start", "margin": 4}},
        "orient": "top",
        "direction": "vertical",
        "columns": 1,
        "title": None,
        "labelFontSize": 12,
        "labelLimit": 300,
        "offset": 10,
    },
    "text": {"color": INK, "fontSize": 12},
    "rule": {"color": INK},
}


def installed() -> bool:
    """Whether charts can be made: Altair is there."""
    try:
        import altair  # noqa: F401
    except ImportError:
        return False
    return True


def lines(rows: Sequence[Row], along: str, title: str, *, form: str, runs: Sequence[str]) -> Spec:
    """Lines along steps, examples or seconds: one for each run and measure."""
    return _done(*_lines(rows, along, title, form, runs))


def gap(rows: Sequence[Row], threshold: float | None, *, runs: Sequence[str]) -> Spec:
    """Fresh minus stale along steps, with a line at 0 and at the guard's threshold."""
    import altair as alt

    marks = [{"value": 0.0}, *([] if threshold is None else [{"value": -threshold}])]
    rules = alt.Chart(alt.InlineData(values=marks)).mark_rule(strokeDash=[5, 4]).encode(y="value:Q")
    return _done(*_lines(rows, "step", "fresh minus stale", "+.1%", runs, "step-after"), rules)


def _lines(
    rows: Sequence[Row], along: str, title: str, form: str, runs: Sequence[str], between: str = "linear"
) -> tuple[Any, Any]:
    """The lines, and points that show their values; few points are seen, of many each where the pointer is."""
    import altair as alt

    short = [{name: _short(row[name]) for name in (along, "value", "run", "measure")} for row in rows]
    measures = list(dict.fromkeys(row["measure"] for row in rows))
    several = len(runs) > 1
    split = {"strokeDash": alt.StrokeDash("measure:N", sort=measures)} if several and len(measures) > 1 else {}
    of_measure = alt.Color("measure:N", sort=None, legend=alt.Legend() if len(measures) > 1 else None)
    base = alt.Chart(alt.InlineData(values=short)).encode(
        x=_along(alt, along),
        y=alt.Y("value:Q", title=title, axis=alt.Axis(format=form, tickCount=5), scale=alt.Scale(zero=False)),
        color=_by_run(alt, runs) if several else of_measure,
        tooltip=[alt.Tooltip(f"{along}:Q", title=ALONG[along], format=",.6~g"), *_of(alt, form, runs)],
    )
    longest = max(sum(row["measure"] == measure for row in rows) for measure in measures)
    seen = 1.0 if longest <= FEW * len({row["run"] for row in rows}) else 0.0
    return base.mark_line(strokeWidth=2, interpolate=between).encode(**split), base.mark_point(
        filled=True, size=45, opacity=seen
    )


def histogram(rows: Sequence[Row], *, runs: Sequence[str]) -> Spec:
    """Shards by staleness, with a line at the bound."""
    import altair as alt

    chart = alt.Chart(alt.InlineData(values=[{**row, "share": _short(row["share"])} for row in rows]))
    x = alt.X("staleness:O", title="staleness, in steps", axis=alt.Axis(labelAngle=0))
    of_run = {"xOffset": alt.XOffset("run:N", sort=runs)} if len(runs) > 1 else {}
    bars = chart.mark_bar(cornerRadiusEnd=2).encode(
        x=x,
        y=alt.Y("share:Q", title="share of shards", axis=alt.Axis(format=".0%", tickCount=5)),
        color=_by_run(alt, runs),
        tooltip=["run:N", "staleness:O", alt.Tooltip("shards:Q", format=","), alt.Tooltip("share:Q", format=".2%")],
        **of_run,
    )
    highest = max((row["bound"] for row in rows), default=0)
    bound = alt.Chart(alt.InlineData(values=[{"staleness": highest}])).encode(
        x=alt.X("staleness:O", bandPosition=1.0, title="staleness, in steps")
    )
    words = bound.mark_text(align="right", dx=-6, dy=-6, baseline="bottom", text=f"bound {highest}").encode(
        y=alt.value(6 + 12)
    )
    return _done(bars, bound.mark_rule(strokeDash=[5, 4], strokeWidth=1.5), words)


def shares(rows: Sequence[Row]) -> Spec:
    """What the time of each process went to, as bars that are filled."""
    import altair as alt

    kinds = list(dict.fromkeys(row["what"] for row in rows))
    placed = [{**row, "share": _short(row["share"]), "place": kinds.index(row["what"])} for row in rows]
    chart = (
        alt.Chart(alt.InlineData(values=placed))
        .mark_bar(height={"band": 0.7})
        .encode(
            y=alt.Y("who:N", title=None, sort=None, axis=alt.Axis(labelLimit=130)),
            x=alt.X("share:Q", title="share of its time", axis=alt.Axis(format=".0%", tickCount=5), scale=_whole(alt)),
            color=alt.Color("what:N", sort=kinds),
            order=alt.Order("place:Q"),
            tooltip=["who:N", "what:N", alt.Tooltip("seconds:Q", format=",.1f"), alt.Tooltip("share:Q", format=".1%")],
        )
    )
    return _done(chart, height=36 + 44 * len({row["who"] for row in rows}))


def areas(rows: Sequence[Row]) -> Spec:
    """The shares of an allocator's classes along steps."""
    import altair as alt

    short = [{**row, "share": _short(row["share"])} for row in rows]
    chart = (
        alt.Chart(alt.InlineData(values=short))
        .mark_area(opacity=0.85)
        .encode(
            x=alt.X(
                "step:Q", title=ALONG["step"], axis=alt.Axis(tickCount=5, format="~s"), scale=alt.Scale(nice=False)
            ),
            y=alt.Y("share:Q", title="share of examples", stack="normalize", axis=alt.Axis(format=".0%", tickCount=5)),
            color=alt.Color("class:N"),
        )
    )
    return _done(chart)


def curve(rows: Sequence[Row], along: Along, trained: float | None, *, runs: Sequence[str]) -> Spec:
    """Robust accuracy along ε or steps, with intervals, and a line at the trained ε."""
    import altair as alt

    if along == "steps":
        x = alt.X("at:Q", title="attack steps", scale=alt.Scale(type="log", nice=False), axis=_at(alt, rows))
    else:
        x = alt.X("at:Q", title="ε of the attack", scale=alt.Scale(nice=False), axis=alt.Axis(tickCount=5))
    base = alt.Chart(alt.InlineData(values=list(rows))).encode(
        x=x,
        y=alt.Y("value:Q", title="robust accuracy", scale=_whole(alt), axis=alt.Axis(format=".0%")),
        color=_by_run(alt, runs),
        tooltip=["run:N", "attack:N", alt.Tooltip("value:Q", title="robust accuracy", format=".1%"), *_ends(alt)],
    )
    bars = base.mark_rule(strokeWidth=1.5).encode(y="low:Q", y2="high:Q")
    layers = [base.mark_line(strokeWidth=2), base.mark_point(filled=True, size=45, opacity=1), bars]
    if trained is not None and along == "epsilon":
        at = alt.Chart(alt.InlineData(values=[{"at": trained}])).encode(x="at:Q")
        layers += [
            at.mark_rule(strokeDash=[5, 4]),
            at.mark_text(align="right", dx=-6, text="trained").encode(y=alt.value(HEIGHT - 10)),
        ]
    return _done(*layers)


def classes(rows: Sequence[Row], *, runs: Sequence[str]) -> Spec:
    """Robust accuracy of each class with its interval; of many classes those that are least robust."""
    import altair as alt

    shown = set(sorted({row["class"] for row in rows}, key=lambda name: _least(rows, name))[:MOST_CLASSES])
    of_run = {"xOffset": alt.XOffset("run:N", sort=runs)} if len(runs) > 1 else {}
    base = alt.Chart(alt.InlineData(values=[row for row in rows if row["class"] in shown])).encode(
        x=alt.X("class:N", title="class", sort=None, axis=alt.Axis(labelAngle=0)),
        tooltip=["run:N", "class:N", "samples:Q", alt.Tooltip("value:Q", title="robust", format=".1%"), *_ends(alt)],
        **of_run,
    )
    bars = base.mark_bar(cornerRadiusEnd=2).encode(
        y=alt.Y("value:Q", title="robust accuracy", scale=_whole(alt), axis=alt.Axis(format=".0%")),
        color=_by_run(alt, runs),
    )
    return _done(bars, base.mark_rule(strokeWidth=1.5).encode(y="low:Q", y2="high:Q"))


def _by_run(alt: Any, runs: Sequence[str]) -> Any:
    """A colour for each run of the report, the same in all charts."""
    legend = alt.Legend() if len(runs) > 1 else None
    return alt.Color("run:N", scale=alt.Scale(domain=list(runs)), legend=legend)


def _whole(alt: Any) -> Any:
    return alt.Scale(domain=[0, 1])


def _at(alt: Any, rows: Sequence[Row]) -> Any:
    return alt.Axis(values=sorted({row["at"] for row in rows}), format="d")


def _along(alt: Any, along: str) -> Any:
    axis = alt.Axis(tickCount=5, format="~s")
    return alt.X(f"{along}:Q", title=ALONG[along], axis=axis, scale=alt.Scale(nice=False))


def _least(rows: Sequence[Row], name: str) -> float:
    return min(float(row["value"]) for row in rows if row["class"] == name)


def _ends(alt: Any) -> list[Any]:
    """The ends of the 95 % interval."""
    return [alt.Tooltip(f"{end}:Q", title=f"95 %, {end}", format=".1%") for end in ("low", "high")]


def _of(alt: Any, form: str, runs: Sequence[str]) -> list[Any]:
    beside = [alt.Tooltip("run:N")] if len(runs) > 1 else []
    return [*beside, alt.Tooltip("measure:N", title="what"), alt.Tooltip("value:Q", format=form.replace(".0", ".1"))]


def _done(*layers: Any, height: int = HEIGHT) -> Spec:
    import altair as alt

    chart = alt.layer(*layers).properties(width=WIDTH, height=height)
    spec: Spec = chart.to_dict()
    return {**spec, "autosize": {"type": "fit-x", "contains": "padding"}, "config": CONFIG}


def _short(value: Any) -> Any:
    """Numbers with five digits: the file is smaller, the picture the same."""
    return float(f"{value:.5g}") if isinstance(value, float) else value
