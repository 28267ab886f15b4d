"""Objects by name: built-ins, modules and files are found alike, and what is wrong is said in one way."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sparring import plugins
from sparring.config import from_tree
from sparring.errors import SparringError, UsageError
from sparring.trainer.experiment import build_experiment
from sparring.trainer.schedules import learning_rate

BUILT_IN = {"square-root": "math:sqrt", "sine": "math:sin"}
LOSSES = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Hat:
    gamma: float = 0.5

def hat(gamma: float = 0.5) -> Hat:
    return Hat(gamma)
"""


@pytest.fixture
def losses(tmp_path: Path) -> Path:
    path = tmp_path / "mylosses.py"
    path.write_text(LOSSES)
    return path


def factory(beta: float, gamma: float = 0.5, *, width: int) -> tuple[float, float, int]:
    if width < 0:
        raise ValueError("width must not be negative")
    return beta, gamma, width


def test_a_built_in_is_loaded_from_the_string_in_its_table() -> None:
    import math

    assert plugins.resolve("objective.name", "sine", BUILT_IN) is math.sin


def test_an_object_of_a_module_is_found_by_its_import_path() -> None:
    assert plugins.resolve("objective.name", "pathlib:Path", BUILT_IN) is Path


def test_an_object_of_a_file_is_the_same_whenever_it_is_asked_for(losses: Path) -> None:
    first = plugins.resolve("objective.name", f"{losses}:hat", BUILT_IN)
    assert first is plugins.resolve("objective.name", f"{losses}:hat", BUILT_IN)
    assert callable(first) and first() == plugins.resolve("objective.name", f"{losses}:Hat", BUILT_IN)()  # type: ignore[operator]


def test_a_path_is_relative_to_the_working_directory_or_to_the_home(
    losses: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(losses.parent)
    monkeypatch.setenv("HOME", str(losses.parent))
    found = [
        plugins.resolve("objective.name", f"{place}mylosses.py:hat", {}) for place in ("", "~/", f"{losses.parent}/")
    ]
    assert found[0] is found[1] is found[2]
    assert plugins.absolute("mylosses.py:hat") == plugins.absolute("~/mylosses.py:hat") == f"{losses}:hat"
    assert plugins.absolute("mylosses:hat") == "mylosses:hat" and plugins.absolute("trades") == "trades"


def test_objects_of_a_file_can_be_pickled(losses: Path) -> None:
    hat: Any = plugins.resolve("objective.name", f"{losses}:hat", {})
    assert pickle.loads(pickle.dumps(hat(0.25))) == hat(0.25)


def test_a_file_may_import_its_neighbours_and_leaves_the_path_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_a_plugin.py").write_text("VALUE = 7")
    (tmp_path / "two words.py").write_text("from neighbour_of_a_plugin import VALUE")
    before = list(sys.path)
    assert plugins.resolve("data.name", f"{tmp_path}/two words.py:VALUE", {}) == 7
    assert sys.path == before


def test_a_changed_file_is_loaded_anew(losses: Path) -> None:
    plugins.resolve("objective.name", f"{losses}:hat", {})
    losses.write_text("hat = 3")
    assert plugins.resolve("objective.name", f"{losses}:hat", {}) == 3


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("sin", "no such name; the nearest is sine. Built in: square-root, sine."),
        ("SINE", "no such name; the nearest is sine"),
        (":sin", "no such name"),
        ("math:", "no such name"),
        ("losses.py", "write losses.py:NAME"),
        ("math:sinn", "math has no 'sinn'; the nearest is sin"),
        ("no_such_module:sin", "the module cannot be imported (ModuleNotFoundError: No module named 'no_such_module')"),
        ("no-such-file.py:sin", "no-such-file.py cannot be read (No such file or directory)"),
        ("{folder}/mylosses.py:hut", "mylosses.py has no 'hut'; the nearest is hat"),
        ("{folder}/broken.py:hat", "broken.py cannot be imported (SyntaxError: "),
        ("{folder}/script.py:hat", "script.py cannot be imported (SystemExit: 2, script.py:"),
    ],
)
def test_what_cannot_be_found_is_said_with_setting_value_and_remedy(name: str, problem: str, losses: Path) -> None:
    (losses.parent / "broken.py").write_text("def hat(:")
    (losses.parent / "script.py").write_text("raise SystemExit(2)")
    name = name.replace("{folder}", str(losses.parent))
    with pytest.raises(UsageError) as raised:
        plugins.resolve("objective.name", name, BUILT_IN)
    reported = str(raised.value)
    assert reported.startswith(f"objective.name = {name!r}: ") and problem in reported
    assert reported.endswith(". Name an object of your own as module:object or path.py:object.")


def test_a_file_that_failed_is_tried_again(losses: Path) -> None:
    losses.write_text("def hat(:")
    with pytest.raises(UsageError, match="SyntaxError"):
        plugins.resolve("objective.name", f"{losses}:hat", {})
    losses.write_text(LOSSES)
    assert callable(plugins.resolve("objective.name", f"{losses}:hat", {}))


def test_a_factory_is_given_the_settings_that_it_names_and_every_option() -> None:
    settings = {"beta": 6.0, "label_smoothing": 0.1}
    assert plugins.call("objective.name", factory, settings, {"width": 2}) == (6.0, 0.5, 2)
    assert plugins.call("objective.name", factory, settings, {"width": 2, "gamma": 1.0}) == (6.0, 1.0, 2)
    assert plugins.call("objective.name", partial(factory, width=3), settings, {}) == (6.0, 0.5, 3)


def test_a_factory_of_any_keywords_is_given_the_options_alone() -> None:
    assert plugins.call("objective.name", lambda **options: options, {"beta": 6.0}, {"gamma": 1}) == {"gamma": 1}


@pytest.mark.parametrize(
    ("options", "reported"),
    [
        ({}, "objective.options.width is missing. Set it; factory takes gamma = 0.5, width."),
        ({"width": 1, "gama": 2}, "objective.options.gama = 2: no such option; factory takes gamma = 0.5, width."),
        ({"width": 1, "beta": 2}, "objective.options.beta = 2: the run already passes beta"),
        (
            {"width": -1},
            "objective.name: factory refuses its arguments: width must not be negative (ValueError, test_plugins.py:",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused_by_name(options: dict[str, Any], reported: str) -> None:
    with pytest.raises(UsageError) as raised:
        plugins.call("objective.name", factory, {"beta": 6.0}, options)
    assert str(raised.value).startswith(reported)


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(UsageError, match=r"objective\.name: 3 is not a function or class"):
        plugins.call("objective.name", 3, {}, {})  # type: ignore[arg-type]


def test_an_error_of_ours_passes_through_and_one_in_our_own_code_is_not_hidden() -> None:
    def fails() -> None:
        raise error

    def of_ours() -> None:
        raise error

    of_ours.__module__ = "sparring.data.sources"
    error: Exception = SparringError("the data are missing")
    with pytest.raises(SparringError, match=r"^the data are missing$"):
        plugins.call("data.name", fails, {}, {})
    error = RuntimeError("a bug")
    with pytest.raises(RuntimeError, match="a bug"):
        plugins.call("data.name", of_ours, {}, {})


BROKEN = """
import json
from dataclasses import dataclass

import torch

from sparring.allocators import Allocator
from sparring.attacks import Attack
from sparring.objectives import Objective

class Own(RuntimeError):
    pass

def data(split):
    torch.load("no-such-file.pt")  # data

def schedule():
    return {}["rate"]  # schedule

def model(shape, classes):
    raise Own("no weights")  # model

@dataclass(frozen=True, kw_only=True)
class Attacks(Attack):
    def __post_init__(self):
        super().__post_init__()
        raise SystemExit(3)  # attack

class Loses(Objective):
    def __init__(self):
        self.share = "a" + 1  # objective

class Sorts(Allocator):
    def __init__(self):
        self.share = json.loads("")  # allocator
"""


@pytest.mark.parametrize(
    ("group", "name", "said"),
    [
        ("data", "data", "FileNotFoundError: .*no-such-file.pt.*"),
        ("schedule", "schedule", "KeyError: 'rate'"),
        ("model", "model", "Own: no weights"),
        ("attack", "Attacks", "SystemExit: 3"),
        ("objective", "Loses", "TypeError: .*"),
        ("allocator", "Sorts", "Expecting value.*JSONDecodeError"),
    ],
)
def test_a_fault_of_ones_own_code_is_a_sentence_with_its_place(
    group: str, name: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    line = BROKEN.splitlines().index(next(each for each in BROKEN.splitlines() if each.endswith(f"# {group}"))) + 1
    config = from_tree({group: {"name": f"{tmp_path}/broken.py:{name}"}})
    with pytest.raises(UsageError, match=rf"^{group}\.name.*{said}, broken\.py:{line}\)\."):
        learning_rate(config.schedule, 0.1) if group == "schedule" else build_experiment(config)


LATE = """
import json

def outer(text):
    return json.loads(text)
"""


def raised(function: Callable[..., object], *arguments: Any, **keywords: Any) -> Exception:
    """What the function raises, as who calls it catches it."""
    try:
        function(*arguments, **keywords)
    except Exception as error:
        return error
    pytest.fail("nothing was raised")


def test_an_error_that_a_named_file_raises_later_is_a_sentence_with_setting_and_place(tmp_path: Path) -> None:
    """Also that of a library which it calls; not one of a file that no setting names, nor a lack of memory."""
    path = tmp_path / "late.py"
    path.write_text(LATE)
    outer: Any = plugins.resolve("objective.name", f"{path}:outer", BUILT_IN)
    told = str(plugins.users_failure(raised(outer, "{")))
    assert told.startswith(f"objective.name = '{path}:outer' fails (JSONDecodeError: Expecting property name")
    assert told.endswith(", late.py:5). Correct it there.")
    lacking = MemoryError().with_traceback(raised(outer, "{").__traceback__)
    for error in (raised(factory, 1.0, width=-1), lacking, raised(outer, None, None)):
        assert plugins.users_failure(error) is None


def test_own_objects_are_told_from_built_ins() -> None:
    names = ("sine", "sin", "math:sin", "losses.py:hat")
    assert [plugins.is_external(name, BUILT_IN) for name in names] == [False, False, True, True]


def test_a_process_without_the_file_loads_the_text_that_it_was_sent(losses: Path) -> None:
    name = f"{losses}:hat"
    hat: Any = plugins.resolve("objective.name", name, {})
    sources = plugins.source_files([name, "trades", "math:sin", name])
    assert sources == {str(losses): LOSSES}
    losses.unlink()
    elsewhere = f"""
import pickle, sys
from sparring import plugins
plugins.install({sources!r})
hat = plugins.resolve("objective.name", {name!r}, {{}})
assert pickle.loads({pickle.dumps(hat(0.25))!r}) == hat(0.25)
"""
    subprocess.run([sys.executable, "-c", elsewhere], check=True, env={**os.environ})


def test_files_of_this_package_are_not_the_users_own(tmp_path: Path) -> None:
    """Also where it is installed as a link to a checkout: its version tells what it is."""
    (file := tmp_path / "own.py").write_text("import sparring\nfrom sparring.attacks import PGD\n\n\nhat = PGD\n")
    assert plugins.source_files([f"{file}:hat", "sparring.attacks:PGD"]).keys() == {str(file)}


@pytest.mark.parametrize("text", [LOSSES, "hat = 'another version'"])
def test_the_text_that_was_sent_counts_whatever_the_file_holds(
    text: str, losses: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "_installed", {})
    plugins.install({str(losses): text})
    found = plugins.resolve("objective.name", f"{losses}:hat", {})
    assert callable(found) if text == LOSSES else found == "another version"


def test_a_file_that_cannot_be_read_cannot_be_sent(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent\.py cannot be read"):
        plugins.source_files([f"{tmp_path}/absent.py:hat"])
