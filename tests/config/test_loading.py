"""Defaults, recipe and command line, in this order; whatever is wrong is reported by its name, value and remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sparring.config import (
    Config,
    check_staleness,
    config_of,
    differences,
    flatten,
    from_tree,
    load,
    new_run,
    overridden,
    to_toml,
    with_absolute_paths,
)
from sparring.errors import UsageError

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text('[attack]\nepsilon = 0.3\nsteps = 5\n[data]\nname = "mnist"\n[schedule]\nmilestones = [0.25]\n')
    return path


def at(config: Config, name: str) -> Any:
    return flatten(config)[name]


def test_a_list_of_texts_is_given_as_toml_has_it() -> None:
    found = load(None, {"queue.payload_urls": '["redis://a:1/0", "redis://b:1/0"]'})
    assert found.queue.payload_urls == ("redis://a:1/0", "redis://b:1/0")


def test_the_command_line_goes_before_the_recipe_and_the_recipe_before_the_defaults(recipe: Path) -> None:
    config = load(recipe, {"attack.steps": "7", "workers": "6"})
    assert (config.attack.steps, config.attack.epsilon) == (7, 0.3)
    assert config.workers.count == 6 and config.schedule.milestones == (0.25,)
    assert set(differences(Config(), config)) == {
        "attack.steps",
        "attack.epsilon",
        "workers.count",
        "data.name",
        "schedule.milestones",
    }
    assert load() == Config()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("workers", "3", 3),
        ("staleness", "5", 5),
        ("seed", "11", 11),
        ("epochs", "2", 2),
        ("name", "mine", "mine"),
        ("attack.epsilon", "1e-2", 0.01),
        ("staleness.refresh", "auto", "auto"),
        ("staleness.refresh", "2", 2),
        ("schedule.milestones", "[0.1, 0.9]", [0.1, 0.9]),
        ("metrics.enabled", "false", False),
        ("staleness.lockstep", "true", True),
        ("attack.step_size", "none", None),
        ("pruning.name", "none", "none"),
        ("allocator.name", "none", "none"),
        ("data.root", "~/data", "~/data"),
        ("data.root", '"~/data"', "~/data"),
        ("data.name", "npz:a=b#c", "npz:a=b#c"),
        ("run.name", "123", "123"),
        ("run.name", "2026-01-01", "2026-01-01"),
        ("run.name", "1e5", "1e5"),
        ("run.name", "true", "true"),
        ("data.root", "7", "7"),
    ],
)
def test_values_of_the_command_line_are_read_as_their_setting_wants_them(name: str, text: str, value: Any) -> None:
    full = {"workers": "workers.count", "staleness": "simulated.staleness", "seed": "train.seed"}
    short = {**full, "epochs": "train.epochs", "name": "run.name"}
    assert at(load(None, {name: text}), short.get(name, name)) == value


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("attack.epsilom", "attack.epsilon"),
        ("epsilon", "attack.epsilon"),
        ("atack.steps", "attack.steps"),
        ("worker", "workers"),
        ("train.batchsize", "train.batch_size"),
        ("attack", "attack.epsilon"),
    ],
)
def test_an_unknown_setting_is_refused_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(UsageError) as raised:
        load(None, {name: "1"})
    reported = str(raised.value)
    assert reported.startswith(f"--{name}: no such setting; the nearest is ")
    assert nearest.split(".")[0] in reported


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        ("[atack]\nsteps = 3\n", "atack.steps: no such setting; the nearest is attack.steps"),
        ("[attack]\nstep = 3\n", "attack.step: no such setting; the nearest is attack.step"),
        ("attack = 3\n", "attack: no such setting"),
        ("[atack]\n", "atack = {}: Extra inputs are not permitted"),
        ("[attack.steps]\nmany = 3\n", "attack.steps.many: no such setting"),
        ("[attack]\nsteps = 0\n", "attack.steps = 0: Input should be greater than or equal to 1"),
        ("[attack]\nsteps = 'many'\n", "attack.steps = 'many': Input should be a valid integer"),
        ("[run]\nname = 'a/b'\n", "run.name = 'a/b': one to eighty letters, digits and . , + = @ ( ) - _ or spaces"),
        ("[evaluation]\nversion = 'plus'\n", "evaluation: evaluation.version and evaluation.attacks need"),
        ("[attack\n", "is not TOML"),
        ("[attack]\nsteps = 1\nsteps = 2\n", "is not TOML"),
        ("x = " + 100_000 * "[", "its values are nested too deeply"),
        ("[train]\nseed = " + 5000 * "9" + "\n", "is not TOML: Exceeds the limit"),
    ],
)
def test_a_recipe_that_is_wrong_is_refused_by_name(tmp_path: Path, text: str, reported: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as raised:
        load(path)
    assert reported in str(raised.value)


@pytest.mark.parametrize(("content", "reported"), [(b"\xff\xfe\x00", "is not TOML"), (None, "No such file")])
def test_what_is_no_recipe_is_told(tmp_path: Path, content: bytes | None, reported: str) -> None:
    path = tmp_path / "recipe.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=f"recipe {path}.*{reported}"):
        load(path)


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Is a directory\. Give the path of a TOML file"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["train.epochs", "attack.epsilon", "workers"])
def test_a_number_whose_value_was_left_out_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="not a flag, a value is needed"):
        load(None, {name: "true"})


@pytest.mark.parametrize(
    "tree",
    [
        {},
        {"run": {"name": "2026-01-01", "root": "~/runs"}, "data": {"root": "/data", "name": 'npz:a "quoted" \\path'}},
        {"attack": {"step_size": 0.1, "start": "zero"}, "staleness": {"depth": 2, "refresh": "auto"}},
        {"schedule": {"name": "piecewise", "milestones": [1e-9, 0.1]}, "train": {"gradient_clip": 1e300}},
    ],
)
def test_a_configuration_written_as_toml_is_read_back_the_same(tmp_path: Path, tree: dict[str, Any]) -> None:
    config, path = from_tree(tree), tmp_path / "config.toml"
    path.write_text(to_toml(config))
    assert load(path) == config


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_loads_and_can_make_progress(path: Path) -> None:
    config = load(path)
    assert check_staleness(config.staleness) is None
    assert config != Config()


def test_there_are_recipes() -> None:
    assert list(RECIPES.glob("*.toml"))


OPTIONS = '[objective.options]\ngamma = 0.5\nlayers = [1, 2]\n[objective.options.inner]\nkind = "deep"\n'


def test_options_come_from_the_recipe_and_the_command_line_and_are_settings_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(OPTIONS)
    config = load(path, {"objective.options.gamma": "0.25", "model.options.wide": "true", "data.options.kind": "x-1"})
    assert config.objective.options == {"gamma": 0.25, "layers": [1, 2], "inner": {"kind": "deep"}}
    assert (config.model.options, config.data.options) == ({"wide": True}, {"kind": "x-1"})
    assert set(differences(Config(), config)) == {
        "objective.options.gamma",
        "objective.options.layers",
        "objective.options.inner",
        "model.options.wide",
        "data.options.kind",
    }
    assert differences(config, load(path))["objective.options.gamma"] == (0.25, 0.5)
    assert load(path, {"objective.options": "{depth = 3}"}).objective.options == {"depth": 3}


def test_options_are_recorded_and_read_back_the_same(tmp_path: Path) -> None:
    tree = {"a": 1, "b": -0.5, "c": "none", "d": False, "e": (1, [2.5]), "f": {"g": [{"h": 1}]}}
    config, path = from_tree({"attack": {"options": tree}}), tmp_path / "config.toml"
    path.write_text(to_toml(config))
    assert load(path) == config and config.attack.options["e"] == [1, [2.5]]


def test_none_unsets_an_option(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(OPTIONS)
    assert "gamma" not in load(path, {"objective.options.gamma": "none"}).objective.options
    assert "gamma" not in overridden(load(path), {"objective.options.gamma": None}).objective.options
    assert overridden(Config(), {"objective.options.gamma": 1}).objective.options == {"gamma": 1}


@pytest.mark.parametrize("name", ["optimizer.options.gamma", "objective.options.", "objective.option.gamma"])
def test_only_groups_with_a_table_of_options_have_some(name: str) -> None:
    with pytest.raises(UsageError, match=f"--{name}: no such setting"):
        load(None, {name: "1"})


def test_an_option_beside_a_table_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--data.options.a: options = 3 is not a table"):
        load(None, {"data.options": "3", "data.options.a": "1"})


def test_paths_are_made_absolute_and_other_names_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"data": "mydata.py:make", "model": "models/mine.py:make", "schedule": "package.rates:warm"}
    config = with_absolute_paths(from_tree({group: {"name": name} for group, name in names.items()}))
    assert config.data.name == f"{tmp_path}/mydata.py:make" and config.model.name == f"{tmp_path}/models/mine.py:make"
    assert config.schedule.name == "package.rates:warm"
    trees = [{"data": {"name": name}} for name in ("folder:a", "a:b", "mnist")]
    named = [with_absolute_paths(from_tree(tree)).data.name for tree in trees]
    assert named == [f"folder:{tmp_path}/a", "a:b", "mnist"]
    assert with_absolute_paths(from_tree({"model": {"name": "timm:resnet"}})).model.name == "timm:resnet"


def test_a_run_on_data_of_ones_own_is_named_after_their_file(tmp_path: Path) -> None:
    config = from_tree({"data": {"name": "/somewhere/else/mydata.py:make"}, "run": {"root": str(tmp_path)}})
    assert new_run(config).path.name.endswith("-mydata-ray")


@pytest.mark.parametrize("of_older_version", [False, True])
def test_a_cut_configuration_of_a_run_is_never_read_as_defaults(tmp_path: Path, of_older_version: bool) -> None:
    """Cut before a table it is TOML still, and what is missing would be taken from the defaults."""
    run = new_run(overridden(Config(), {"run.root": str(tmp_path), "attack.epsilon": 0.3}))
    whole = run.config_file.read_text()
    assert config_of(run, {"train.epochs": "3"}).train.epochs == 3 and config_of(run).attack.epsilon == 0.3
    if of_older_version:
        run.config_digests.unlink()
    for cut in ("", whole[: whole.index("[attack]")], whole[: whole.index("[data]")]):
        run.config_file.write_text(cut)
        with pytest.raises(UsageError, match="is cut short"):
            config_of(run)
    run.config_file.write_text(whole)
    assert config_of(run).attack.epsilon == 0.3


def test_a_runs_configuration_is_a_recipe_as_it_was_written(tmp_path: Path) -> None:
    run = new_run(overridden(Config(), {"run.root": str(tmp_path), "attack.epsilon": 0.3}))
    assert load(run.config_file) == config_of(run)
    changed = run.config_file.read_text().replace("epsilon = 0.3", "epsilon = 0.1")
    run.config_file.write_text(changed)
    with pytest.raises(UsageError, match="is not as the run wrote it"):
        load(run.config_file)
    (tmp_path / "config.toml").write_text(changed)
    assert load(tmp_path / "config.toml").attack.epsilon == 0.1


def test_differences_name_each_setting_with_both_values() -> None:
    left = from_tree({"attack": {"steps": 3}, "data": {"root": "a"}})
    right = from_tree({"attack": {"steps": 4}, "engine": "sync"})
    assert differences(left, right) == {
        "attack.steps": (3, 4),
        "data.root": ("a", None),
        "engine": ("ray", "sync"),
    }
    assert differences(left, left) == {}


@pytest.mark.parametrize("text", ["9" * 5000, 20_000 * "["], ids=["digits", "brackets"])
def test_a_value_of_thousands_of_characters_is_refused_in_a_short_sentence(text: str) -> None:
    with pytest.raises(UsageError, match=r"train\.seed = .{200}…: ") as refused:
        load(None, {"train.seed": text})
    assert len(str(refused.value)) < 500
