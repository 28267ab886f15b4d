"""Charts of studies as Vega-Lite: accuracies in percent against what was varied, and matrices."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy
from PIL import Image

from sparring.report.charts import COLOURS, Spec

Row = Mapping[str, Any]
SHAPES = ["circle", "square", "triangle-up", "diamond"]
WIDTH, HEIGHT = 420, 260
SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"  # a name: nothing is loaded
CONFIG: Spec = {
    "background": "white",
    "font": "sans-serif",
    "range": {"category": COLOURS},
    "axis": {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "gridOpacity": 0.4},
    "legend": {"labelFontSize": 12, "titleFontSize": 12, "labelLimit": 300},
    "title": {"fontSize": 13},
    "view": {"stroke": None},
}


def lines(
    rows: Sequence[Row],
    x: str,
    y: str,
    colour: str,
    *,
    title: str,
    x_title: str,
    y_title: str = "accuracy, %",
    scale: str = "linear",
    top: float | None = 100,
    points: bool = True,
) -> Spec:
    """A line for each value of `colour` through the means at each x.

    scale: of x, "linear", "log", or "symlog" for a log scale that has a 0. top: of the y axis; None: as the data are.
    """
    domain: Spec = {} if top is None else {"scale": {"domain": [0, top]}}
    ticks = {"values": sorted({row[x] for row in rows})} if scale != "linear" else {}
    return {
        **_frame(rows, title),
        "mark": {"type": "line", "point": points},
        "encoding": {
            "x": {"field": x, "type": "quantitative", "scale": {"type": scale}, "axis": {"title": x_title, **ticks}},
            "y": {"field": y, "type": "quantitative", "aggregate": "mean", "axis": {"title": y_title}, **domain},
            "color": {"field": colour, "type": "nominal", "title": None, "sort": None},
        },
    }


def matrix(rows: Sequence[Row], x: str, y: str, value: str, *, title: str, x_title: str, y_title: str) -> Spec:
    """Squares in shades of blue with their values, in percent."""
    encoding = {
        "x": {"field": x, "type": "ordinal", "sort": None, "axis": {"title": x_title, "labelAngle": 0}},
        "y": {"field": y, "type": "ordinal", "sort": None, "axis": {"title": y_title}},
    }
    shade = {"field": value, "type": "quantitative", "scale": {"domain": [0, 100], "scheme": "blues"}, "legend": None}
    ink = {"condition": {"test": f"datum['{value}'] > 55", "value": "white"}, "value": "black"}
    text = {"text": {"field": value, "type": "quantitative", "format": ".1f"}, "color": ink}
    return {
        **_frame(rows, title, {"step": 70}, {"step": 40}),
        "encoding": encoding,
        "layer": [
            {"mark": "rect", "encoding": {"color": shade}},
            {"mark": {"type": "text", "fontSize": 13}, "encoding": text},
        ],
    }


def scatter(rows: Sequence[Row], x: str, y: str, label: str, *, title: str, x_title: str, y_title: str) -> Spec:
    """A point for each row, with a colour and a shape of its own in the legend."""
    names = list(dict.fromkeys(row[label] for row in rows))
    shapes = [SHAPES[number * len(SHAPES) // len(names)] for number in range(len(names))]
    colours = [COLOURS[number % len(COLOURS)] for number in range(len(names))]
    return {
        **_frame(rows, title),
        "mark": {"type": "point", "filled": True, "size": 80},
        "encoding": {
            "x": {"field": x, "type": "quantitative", "axis": {"title": x_title}, "scale": {"zero": False}},
            "y": {"field": y, "type": "quantitative", "axis": {"title": y_title}, "scale": {"zero": False}},
            "color": {"field": label, "type": "nominal", "title": None, "scale": {"domain": names, "range": colours}},
            "shape": {"field": label, "type": "nominal", "title": None, "scale": {"domain": names, "range": shapes}},
        },
    }


def bars(rows: Sequence[Row], name: str, value: str, group: str, *, title: str, x_title: str) -> Spec:
    """A bar for each name and group, as long as the mean, with a dot for each row where there are several."""
    groups = list(dict.fromkeys(row[group] for row in rows))
    several = len({(row[name], row[group]) for row in rows}) < len(rows)
    encoding = {
        "y": {"field": name, "type": "nominal", "sort": None, "axis": {"title": None, "labelLimit": 300}},
        "yOffset": {"field": group, "type": "nominal", "sort": groups},
    }
    legend = {"legend": None} if len(groups) == 1 else {}
    colour = {"field": group, "type": "nominal", "title": None, "sort": groups, **legend}
    length = {"field": value, "type": "quantitative", "axis": {"title": x_title}}
    mean = {"mark": "bar", "encoding": {"x": {**length, "aggregate": "mean"}, "color": colour}}
    dots = {"mark": {"type": "point", "filled": True, "color": "black", "size": 14}, "encoding": {"x": length}}
    return {
        **_frame(rows, title, WIDTH, {"step": 14}),
        "encoding": encoding,
        "layer": [mean, dots] if several else [mean],
    }


def clouds(rows: Sequence[Row], x: str, y: str, label: str, facet: str, *, title: str) -> Spec:
    """Small dots in the colours of their labels, a square for each value of `facet`."""
    axis = {"axis": None}
    marks = {"type": "point", "filled": True, "size": 8, "opacity": 0.8}
    encoding = {
        "x": {"field": x, "type": "quantitative", **axis},
        "y": {"field": y, "type": "quantitative", **axis},
        "color": {"field": label, "type": "nominal", "scale": {"scheme": "tableau10"}},
    }
    frame = _frame(rows, title)
    return {
        **{name: frame[name] for name in ("$schema", "config", "title", "data")},
        "facet": {"field": facet, "type": "nominal", "title": None, "sort": None},
        "columns": 3,
        "spec": {"width": 190, "height": 190, "mark": marks, "encoding": encoding},
    }


def _frame(rows: Sequence[Row], title: str, width: int | Spec = WIDTH, height: int | Spec = HEIGHT) -> Spec:
    """What all charts have."""
    return {
        "$schema": SCHEMA,
        "config": CONFIG,
        "width": width,
        "height": height,
        "title": title,
        "data": {"values": [dict(row) for row in rows]},
    }


def picture(pixels: str, shape: Sequence[int]) -> str:
    """Pixels (base64 of bytes in the order [C, H, W]) as the address of a PNG image that holds its data."""
    channels, height, width = shape
    values = numpy.frombuffer(base64.b64decode(pixels), dtype=numpy.uint8).reshape(channels, height, width)
    image = Image.fromarray(values[0] if channels == 1 else numpy.ascontiguousarray(values.transpose(1, 2, 0)))
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def strip(rows: Sequence[Row], x: str, y: str, image: str, *, title: str) -> Spec:
    """Pictures in rows: one row for each value of y, in the order of x."""
    return {
        **_frame(rows, title, {"step": 56}, {"step": 56}),
        "mark": {"type": "image", "width": 52, "height": 52},
        "encoding": {
            "x": {"field": x, "type": "ordinal", "axis": {"title": x, "labelAngle": 0}},
            "y": {"field": y, "type": "ordinal", "axis": {"title": None}},
            "url": {"field": image},
        },
    }


def svg_and_png(spec: Spec) -> tuple[str, bytes]:
    """The chart drawn; see sparring/report/drawing.py for the scripts that it uses."""
    import vl_convert

    from sparring.report.drawing import VEGA_LITE

    drawn: str = vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE)
    return drawn, vl_convert.vegalite_to_png(spec, vl_version=VEGA_LITE, scale=2)
