"""The constants of the virtual clock are measured, and what is written is read again."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparring.commands import calibration
from sparring.commands.time_model import line, time_model
from sparring.config import from_tree, load
from sparring.errors import SparringError
from sparring.trainer.experiment import build_experiment
from tests.support.runs import small

TIMES = sorted((Path(__file__).parents[2] / "recipes" / "times").glob("*.toml"))


def test_a_line_goes_through_both_sizes_and_is_never_below_0() -> None:
    assert line((8, 0.18), (64, 0.74)) == pytest.approx((0.1, 0.01))
    assert line((8, 0.01), (64, 0.64)) == pytest.approx((0.0, 0.01)), "dearer than in proportion"
    assert line((8, 0.5), (64, 0.4)) == pytest.approx((0.4, 0.0)), "noise"
    assert line((2, 3.0), (2, 3.0)) == (0.0, 1.5)


@pytest.mark.parametrize("path", TIMES, ids=lambda path: path.stem)
def test_the_files_that_come_with_it_say_where_they_are_from(path: Path) -> None:
    found = from_tree({"virtual": {"times": str(path)}}).virtual
    assert path.read_text().startswith(("# Measured", "# Not measured"))
    assert found.attack_s + 128 * found.attack_example_s > 0 and found.times is None


def test_a_file_that_is_none_is_named() -> None:
    with pytest.raises(Exception, match=r"nowhere\.toml.*is no TOML file"):
        load(None, {"virtual.times": "nowhere.toml"})


@pytest.mark.parametrize("engine", ["sync", "virtual"])
def test_latencies_are_measured_whatever_the_engine_of_the_recipe(
    tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = build_experiment(small(tmp_path, engine=engine))
    monkeypatch.setattr(calibration, "_round_trips_s", lambda *sizes: (0.25, 0.5))
    found = time_model(experiment)
    assert found.publish_s == 0.5 and found.push_s > 0.25 and found.load_s > 0
    monkeypatch.setattr(calibration, "_round_trips_s", lambda *sizes: (None, None))
    with pytest.raises(SparringError, match="no queue server could be started"):
        time_model(experiment)
