"""Charts are valid Vega-Lite that vl-convert draws; pictures hold the pixels that they are given."""

from __future__ import annotations

import base64
import io

import altair
import numpy as np
import pytest
from PIL import Image

from sparring.lab import figures

ROWS = [{"s": s, "accuracy": 90 - s, "of": "a", "label": f"p{s}", "t": str(s)} for s in (0, 1, 4)]
SPECS = {
    "lines": figures.lines(ROWS, "s", "accuracy", "of", title="T", x_title="s", scale="symlog"),
    "free": figures.lines(ROWS, "s", "accuracy", "of", title="T", x_title="s", top=None, points=False),
    "matrix": figures.matrix(ROWS, "t", "label", "accuracy", title="T", x_title="x", y_title="y"),
    "scatter": figures.scatter(ROWS, "s", "accuracy", "label", title="T", x_title="x", y_title="y"),
    "bars": figures.bars(ROWS, "label", "accuracy", "of", title="T", x_title="x"),
    "bars of seeds": figures.bars([*ROWS, *ROWS], "label", "accuracy", "t", title="T", x_title="x"),
    "clouds": figures.clouds(ROWS, "s", "accuracy", "label", "of", title="T"),
}


@pytest.mark.parametrize("name", SPECS)
def test_a_chart_is_drawn(name: str) -> None:
    altair.Chart.from_dict(SPECS[name], validate=True)
    svg, png = figures.svg_and_png(SPECS[name])
    assert svg.startswith("<svg") and png.startswith(b"\x89PNG") and "NaN" not in svg
    for row in ROWS if name == "scatter" else ():
        assert f">{row['label']}</text>" in svg


def test_a_bar_is_as_long_as_the_mean_and_each_seed_has_a_dot() -> None:
    rows = [{"name": "a", "value": value, "of": "PGD"} for value in (40, 60)]
    svg = figures.svg_and_png(figures.bars(rows, "name", "value", "of", title="T", x_title="x"))[0]
    assert 'aria-label="Mean of value: 50;' in svg or "x: 50;" in svg
    assert svg.count('aria-roledescription="point"') == 2
    alone = figures.svg_and_png(figures.bars(rows[:1], "name", "value", "of", title="T", x_title="x"))[0]
    assert alone.count('aria-roledescription="bar"') == 1 and 'aria-roledescription="point"' not in alone


def test_a_strip_holds_the_pixels() -> None:
    pixels = np.arange(12, dtype=np.uint8)
    found = figures.picture(base64.b64encode(pixels.tobytes()).decode(), (1, 3, 4))
    image = Image.open(io.BytesIO(base64.b64decode(found.partition(",")[2])))
    assert np.array_equal(np.asarray(image), pixels.reshape(3, 4))
    colours = figures.picture(base64.b64encode(pixels.tobytes()).decode(), (3, 2, 2))
    image = Image.open(io.BytesIO(base64.b64decode(colours.partition(",")[2])))
    assert image.getpixel((1, 0)) == (1, 5, 9)
    rows = [{"step": step, "s": "s = 0", "image": found} for step in (1, 2)]
    spec = figures.strip(rows, "step", "s", "image", title="T")
    altair.Chart.from_dict(spec, validate=True)
    assert figures.svg_and_png(spec)[0].count("<image") == 2
