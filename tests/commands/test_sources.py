"""A run keeps the text of its user's files, goes on with the same, and a new one takes them as they are now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

import sparring
from sparring.commands.evaluate import load_model, open_trained
from sparring.commands.sources import require_same_sources, sources_of
from sparring.commands.train import Result, train
from sparring.config import Config, from_tree, overridden
from sparring.errors import UsageError
from sparring.plugins import source_files
from sparring.runs import Run
from tests.support.runs import small, weights_of

NETWORK = """
from torch import nn

def make(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, {width}), nn.ReLU(), nn.Linear({width}, classes))
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The file of a network of one's own, of 8 hidden units."""
    path = tmp_path / "own.py"
    path.write_text(NETWORK.format(width=8))
    return path


def recipe(own: Path, name: str) -> Config:
    steps = {"epochs": 1, "max_steps": 3, "batch_size": 32}
    return small(own.parent, engine="sync", run={"name": name}, model={"name": f"{own}:make"}, train=steps)


def hidden_units(result: Result) -> int:
    layer = result.load_model().get_submodule("1")
    assert isinstance(layer, nn.Linear)
    return layer.out_features


def stopped(config: Config) -> Run:
    runs: list[Run] = []
    assert train(config, lambda state, workers: runs[0].request_stop(), runs.append).phase == "stopped"
    return runs[0]


def test_only_files_that_the_recipe_names_are_kept(own: Path) -> None:
    tree: dict[str, Any] = {"model": {"name": f"{own}:make"}, "schedule": {"name": "cosine"}}
    assert sources_of(from_tree(tree)) == {str(own): own.read_text()}
    with pytest.raises(UsageError, match=r"nowhere\.py cannot be read .*Give a Python file that exists"):
        sources_of(from_tree({"objective": {"name": f"{own.parent}/nowhere.py:loss"}}))


def test_a_new_run_takes_the_file_as_it_is_now_and_an_old_one_keeps_its_text(own: Path) -> None:
    first = train(recipe(own, "first"), progress=False)
    assert hidden_units(first) == 8
    own.write_text(NETWORK.format(width=16))
    second = train(recipe(own, "second"), progress=False)
    assert [hidden_units(result) for result in (second, first, second)] == [16, 8, 16]
    assert (second.run.read_json(second.run.sources.name) or {})[str(own)] == NETWORK.format(width=16)


def test_a_run_goes_on_without_its_file_and_not_with_a_changed_one(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparring.trainer.recorder.REPORT_EVERY_S", 0.0)
    whole, run = train(recipe(own, "whole"), progress=False), stopped(recipe(own, "stopped"))
    own.write_text(NETWORK.format(width=16))
    with pytest.raises(UsageError, match=rf"{own} has changed since the run began"):
        sparring.resume(run.path)
    own.unlink()
    require_same_sources(run)
    assert weights_of(sparring.resume(run.path, progress=False)) == weights_of(whole)


def test_a_module_of_ones_own_is_kept_and_refused_once_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python finds it itself: what has changed would be judged as if it were the run's."""
    module = tmp_path / "own_network_module.py"
    module.write_text(NETWORK.format(width=8))
    monkeypatch.syspath_prepend(tmp_path)
    config = small(tmp_path, engine="sync", model={"name": "own_network_module:make"}, train={"max_steps": 3})
    assert sources_of(config) == {str(module): module.read_text()}
    run = stopped(config)
    module.write_text(NETWORK.format(width=8).replace("ReLU", "Tanh"))
    for again in (lambda: open_trained(run, {}), lambda: sparring.resume(run.path), lambda: load_model(run.path)):
        with pytest.raises(UsageError, match=rf"{module} has changed since the run began"):
            again()
    module.write_text(NETWORK.format(width=8))
    assert open_trained(run, {}).config == config


def test_what_a_file_or_module_of_ones_own_imports_is_kept_and_refused_once_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three ways to import, two files deep; nothing of what is installed."""
    package = tmp_path / "own_package"
    package.mkdir()
    files = {
        tmp_path / "own_sizes.py": "import own_package.deep\nWIDTH = own_package.deep.WIDTH\n",
        package / "__init__.py": "from . import deep\n",
        package / "deep.py": "import math\nWIDTH = int(math.sqrt(64))\n",
        tmp_path / "own.py": "import torch\nfrom own_sizes import WIDTH\n"
        + NETWORK.format(width="WIDTH").replace("ReLU", "Tanh"),
        tmp_path / "other.py": "",
    }
    for path, text in files.items():
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    config = recipe(tmp_path / "own.py", "imports")
    kept = {str(path): text for path, text in files.items() if path.name != "other.py"}
    assert sources_of(config) == kept
    assert sources_of(overridden(config, {"model.name": "own:make"})) == kept
    run = stopped(config)
    (tmp_path / "own.py").write_text("")
    assert open_trained(run, {}).config == config
    (package / "deep.py").write_text("WIDTH = 9\n")
    with pytest.raises(UsageError, match=r"own_package/deep\.py has changed since the run began"):
        open_trained(run, {})


@pytest.mark.parametrize(
    "name", ["timm:resnet18", "math:sin", "nowhere:at_all", "folder:/data", "npz:data", "python:Net"]
)
def test_of_what_is_installed_or_no_module_nothing_is_kept(name: str) -> None:
    assert source_files([name]) == {}
