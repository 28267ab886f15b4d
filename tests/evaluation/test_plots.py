"""The picture shows the figures that it is given, or it is said beforehand that it cannot be drawn."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sparring.errors import SparringError, UsageError
from sparring.evaluation import plots
from sparring.evaluation.curves import Curves, Point
from sparring.evaluation.masking import Masking
from sparring.evaluation.plots import draw, require_drawable


def point(epsilon: float, steps: int, share: float) -> Point:
    return Point(epsilon, steps, f"PGD-{steps}", share, (max(0.0, share - 0.1), share + 0.05))


CURVES = Curves(
    norm="linf",
    trained_epsilon=0.1,
    samples=60,
    drawn="all",
    by_epsilon=[point(0.05, 5, 0.9), point(0.1, 5, 0.6), point(1.0, 5, 0.0)],
    by_steps=[point(0.1, 1, 0.8), point(0.1, 10, 0.6)],
    black_box=Point(0.1, 0, "Square, 50 queries", 0.7, (0.6, 0.8)),
    rule="",
    warnings=[],
    masking=Masking("no sign of masking", (), ""),
)


def test_the_picture_is_a_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "curves.png"
    require_drawable(path)
    draw(CURVES.as_dict(), "smooth", path)
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000


@pytest.mark.parametrize("name", ["curves.svg", "nowhere/curves.png"])
def test_a_picture_that_cannot_be_written_is_told_before_the_attacks(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"--plot .*give the path of a \.png file in an existing folder"):
        require_drawable(tmp_path / name)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Draws curves and returns the figure, which would be gone otherwise."""
    figure_module = pytest.importorskip("matplotlib.figure")

    def figure_of(curves: Curves) -> Any:
        figures: list[Any] = []

        def make(**options: Any) -> Any:
            figures.append(figure_module.Figure(**options))
            return figures[-1]

        monkeypatch.setattr(plots, "_matplotlib", lambda: SimpleNamespace(Figure=make))
        draw(curves.as_dict(), "mine", tmp_path / "curves.png")
        return figures[0]

    return figure_of


def test_every_point_stands_in_the_picture_in_per_cent_with_its_interval(drawn: Any) -> None:
    left, right = drawn(CURVES).axes
    for axes, points, along in ((left, CURVES.by_epsilon, "epsilon"), (right, CURVES.by_steps, "steps")):
        line, _, (bars,) = axes.containers[0]
        assert list(line.get_xdata()) == [getattr(each, along) for each in points]
        assert list(line.get_ydata()) == pytest.approx([100 * each.robust_accuracy for each in points])
        reach = [[low, high] for (_, low), (_, high) in bars.get_segments()]
        assert reach == [pytest.approx([100 * end for end in each.robust_interval]) for each in points]


def test_the_trained_ball_the_black_box_and_the_finding_are_named(drawn: Any) -> None:
    figure = drawn(CURVES)
    left, right = ({text.get_text() for text in axes.get_legend().get_texts()} for axes in figure.axes)
    assert "trained, ε = 0.1" in left and "Square, 50 queries" in right
    assert figure.get_suptitle() == "mine: 60 test examples, 95 % intervals; no sign of masked gradients"
    masked = drawn(replace(CURVES, black_box=None, masking=Masking("masked", (), "")))
    assert masked.get_suptitle().endswith("; gradients are probably masked")
    assert len(masked.axes[1].get_legend().get_texts()) == 1, "no black box was tried"


def test_without_matplotlib_the_extra_is_named_before_the_attacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(SparringError, match=r"matplotlib is not installed\. pip install 'sparring\[plots\]'"):
        require_drawable(tmp_path / "curves.png")
