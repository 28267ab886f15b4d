"""The demo shows what training and attacks do to accuracy, and what workers gain, with figures of its own run."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from sparring.attacks import PGD
from sparring.commands import demo
from sparring.config import Config
from sparring.data import load
from sparring.evaluation import evaluate
from sparring.observe.progress import Progress
from sparring.observe.state import RunState
from tests.support.runs import Place, small


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Callable[[Config], None]:
    """The demo on a recipe of few steps."""

    def shorten(config: Config) -> None:
        monkeypatch.setattr(demo, "Config", lambda: config)
        monkeypatch.setattr(demo, "PLAIN_EPOCHS", 2)
        monkeypatch.setattr(demo, "SYNC_SECONDS", 0.2)

    return shorten


def silent() -> AbstractContextManager[Progress]:
    return Progress("demo", Console(file=io.StringIO()))


def shown(table: object) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


@pytest.mark.ray
def test_it_trains_by_workers_beside_a_plain_model_and_the_synchronous_loop(
    tmp_path: Path, short: Callable[[Config], None], shared_ray: Place
) -> None:
    short(shared_ray(small(tmp_path, workers={"count": 2})))
    notes: list[str] = []
    result = demo.run_demo(silent, notes.append)
    assert (result.phase, result.summary["engine"], result.summary["steps"]) == ("finished", "ray", 12)
    assert [note[:3] for note in notes] == ["1/3", "2/3", "3/3", "the"] and "2 workers" in notes[2]
    assert result.report == result.run.path / "report.html" and "By class" in result.report.read_text()
    assert result.run.read_json("summary.json") == json.loads(json.dumps(result.summary))
    assert 0 <= result.summary["plain_robust_accuracy"] <= 1 and result.summary["speedup_over_sync"] > 0
    text = shown(result.table)
    seconds = result.summary["predicted_seconds_by_devices"]
    assert list(seconds) == [1, 2, 4, 8, 16] and seconds[1] > seconds[4] >= seconds[16] > 0
    assert str(result.run.path) in text and "predicted on 1, 2, 4, 8, 16 devices" in text
    clean, robust = (100 * result.summary[f"{kind}_accuracy"] for kind in ("clean", "robust"))
    assert (
        f"{clean:.1f} % / {robust:.1f} %" in text and "before training" in text and "plain training, 2 epochs" in text
    )


def test_a_demo_that_is_stopped_says_so_and_compares_nothing(
    tmp_path: Path, short: Callable[[Config], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    short(small(tmp_path, engine="sync", run={"name": "stopped"}))

    class Stopping(Progress):
        def update(self, state: RunState, workers: object = None) -> None:
            (tmp_path / "stopped" / "stop").touch()

    result = demo.run_demo(lambda: Stopping("demo", Console(file=io.StringIO())), lambda note: None)
    assert (result.phase, result.table, result.report) == (
        "stopped",
        None,
        None,
    ) and "speedup_over_sync" not in result.summary


def test_a_plainly_trained_model_is_right_on_clean_images_and_falls_to_attacks() -> None:
    config, test = Config(), load(Config().data, "test")
    found = evaluate(demo.train_plainly(config).model, test, PGD(config.attack.epsilon, steps=10), samples=100)
    assert found.clean_accuracy > 0.9 and found.robust_accuracy < 0.3


def test_the_synchronous_rate_is_examples_over_the_seconds_that_they_took(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(range(100))
    monkeypatch.setattr(demo, "time", SimpleNamespace(monotonic=lambda: float(next(seconds))))
    assert demo.synchronous_rate(Config(), 3.0) == pytest.approx(2 * 64 / 3)
