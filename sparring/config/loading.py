"""Load settings: a recipe (TOML) overrides defaults, the command line overrides both by dotted names:

load(Path("recipes/mnist-async.toml"), {"data.root": "~/data", "workers.count": "4"})
"""

from __future__ import annotations

import difflib
import re
import time
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

import tomli_w
from pydantic import BaseModel, ValidationError

from sparring import plugins
from sparring.config.schema import Config
from sparring.errors import UsageError
from sparring.runs import Run, create, require_as_written

# Short forms of the settings that are typed most.
SHORT_NAMES = {
    "workers": "workers.count",
    "staleness": "simulated.staleness",
    "seed": "train.seed",
    "epochs": "train.epochs",
    "name": "run.name",
}
OPTIONS = ".options"  # last part of the name of a table of keyword arguments; each entry is a setting
NAMED = ("data", "model", "attack", "objective", "allocator", "schedule")  # groups whose name may be a user's object
PASSWORD = re.compile(r"(?<=:)[^:@/]*(?=@)|(?<=password=)[^&']*")  # in a URL
FRACTION = re.compile(r"\d+(\.\d+)?/[1-9]\d*")
LONGEST_SHOWN = 200  # characters of a value that is refused
NAME_OF_A_RUN = (  # the one setting with a pattern
    "one to eighty letters, digits and . , + = @ ( ) - _ or spaces are allowed; the first is a letter, a digit or _, "
    "the last neither a space nor a comma nor an opening bracket"
)
WRITTEN = ("data", "model", "train", "attack", "evaluation")  # groups in the config.toml of a run of any version
FILES = ("folder", "npz")  # kinds of data that are named by a path


def config_of(run: Run, changes: Mapping[str, Any] | None = None) -> Config:
    """The resolved configuration of a run, from its folder, with `changes` as in `load`.

    Raises:
        UsageError: as `load`, or the file lacks settings that every run writes.
    """
    tree = _read_recipe(run.config_file)
    missing = [name for name in WRITTEN if name not in tree]
    config = _resolved(tree, f"{run.config_file}: ", changes)
    if missing:
        raise UsageError(
            f"{run.config_file} is cut short: it has no [{missing[0]}], and a run writes all of its settings. Put back "
            f"a copy of it."
        )
    return config


def new_run(config: Config) -> Run:
    """Create the folder of a new run; its default name is made of the time, the data and the engine."""
    data = Path(config.data.name.split(":")[0]).name.removesuffix(".py")
    default_name = f"{time.strftime('%Y%m%d-%H%M%S')}-{data}-{config.engine}"
    return create(config.run.root, config.run.name, default_name, to_toml(config))


def setting_names(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[str]:
    """The dotted names of all settings."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from setting_names(kind, f"{prefix}{name}.")
        else:
            yield prefix + name


def load(recipe: str | Path | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Load a configuration: the recipe overrides the defaults, `overrides` (by dotted name) override the recipe.

    Overrides that are strings are parsed as on the command line.

    Raises:
        UsageError: unknown setting (the nearest known one is named), value out of bounds, unreadable recipe, or the
            config.toml of a run that is not as the run wrote it.
    """
    tree = _read_recipe(Path(recipe)) if recipe is not None else {}
    return _resolved(tree, f"{recipe}: " if recipe is not None else "", overrides)


def _resolved(tree: dict[str, Any], origin: str, overrides: Mapping[str, Any] | None) -> Config:
    """The configuration of a recipe's tree, which the overrides change. origin: begins the messages."""
    for name in _leaf_names(tree):
        require_known(name, origin)
    for name, value in changes_of(overrides or {}).items():
        _put(tree, name, value)
    return from_tree(tree)


def changes_of(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides by full dotted name; strings are parsed as TOML values where possible.

    Raises:
        UsageError: there is no such setting.
    """
    changes = {}
    for name, value in overrides.items():
        full = SHORT_NAMES.get(name, name)
        if isinstance(value, Mapping) and full in Config.model_fields:
            raise UsageError(
                f"overrides: {name!r} is a group of settings. Give each setting by its dotted name, as "
                f"{{'train.epochs': 10}}."
            )
        require_known(full, "--")
        changes[full] = parse(full, value) if isinstance(value, str) else _plain(value)
    return changes


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def from_tree(tree: Mapping[str, Any]) -> Config:
    """Validate a nested mapping of settings.

    Raises:
        UsageError: about the first setting that is wrong.
    """
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        known = [str(part) for part in first["loc"] if str(part) in _name_parts()]
        name = ".".join(known or map(str, first["loc"]))
        reason = first["msg"].removeprefix("Value error, ")
        if first["type"] == "string_pattern_mismatch":
            reason = NAME_OF_A_RUN
        if first["type"] == "value_error" and len(known) == 1 and isinstance(first["input"], Mapping):  # of a group
            raise UsageError(f"{name}: {reason}. See `sparring config schema`.") from None
        value = PASSWORD.sub("***", repr(first["input"]))
        value = value if len(value) <= LONGEST_SHOWN else f"{value[:LONGEST_SHOWN]}…"
        raise UsageError(f"{name} = {value}: {reason}. See `sparring config schema`.") from None  # it shows the input


def to_toml(config: Config) -> str:
    """The whole resolved configuration as TOML, without the settings that are unset."""
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


def differences(left: Config, right: Config) -> dict[str, tuple[Any, Any]]:
    """Settings whose values differ: (left, right) by dotted name; None where one of them lacks an option."""
    one, two = flatten(left), flatten(right)
    names = dict.fromkeys([*one, *two])
    return {name: (one.get(name), two.get(name)) for name in names if one.get(name) != two.get(name)}


def flatten(config: Config) -> dict[str, Any]:
    """The value of every setting by dotted name; a table of options gives one value per entry."""
    tree = config.model_dump(mode="json")
    flat: dict[str, Any] = {}
    for name in setting_names():
        value: Any = tree
        for part in name.split("."):
            value = value[part]
        flat.update({f"{name}.{key}": each for key, each in value.items()} if name.endswith(OPTIONS) else {name: value})
    return flat


def _read_recipe(path: Path) -> dict[str, Any]:
    try:
        text = path.expanduser().read_text()
        found = tomllib.loads(text)
    except OSError as error:
        raise UsageError(f"recipe {path}: {error.strerror}. Give the path of a TOML file.") from error
    except RecursionError as error:
        raise UsageError(f"recipe {path}: its values are nested too deeply. Correct it.") from error
    except ValueError as error:  # no TOML, no UTF-8, or a number of thousands of digits
        raise UsageError(f"recipe {path} is not TOML: {error}. Correct it, or put back a copy.") from error
    require_as_written(path.expanduser(), text)
    return found


def _leaf_names(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaf_names(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def _name_parts() -> set[str]:
    return {part for name in setting_names() for part in name.split(".")}


def require_known(name: str, origin: str) -> None:
    """Check that a setting exists; `origin` begins the message.

    Raises:
        UsageError: there is no such setting; the nearest one is named.
    """
    known = list(setting_names())
    if name in known or _is_option(name):
        return
    by_last_word = [full for full in known if full.split(".")[-1] == name.split(".")[-1]]
    same_group = [full for full in known if full.split(".")[0] == name.split(".")[0]]
    candidates = difflib.get_close_matches(name, same_group, n=1, cutoff=0.9) or by_last_word
    candidates = candidates or difflib.get_close_matches(name, [*known, *SHORT_NAMES], n=1, cutoff=0.0)
    raise UsageError(f"{origin}{name}: no such setting; the nearest is {candidates[0]}. See `sparring config show`.")


def _is_option(name: str) -> bool:
    """Whether `name` is an entry of a table of options, such as objective.options.gamma."""
    group, _, rest = name.partition(f"{OPTIONS}.")
    return bool(rest) and f"{group}{OPTIONS}" in setting_names()


def _put(tree: dict[str, Any], name: str, value: Any) -> None:
    *groups, leaf = name.split(".")
    for group in groups:
        tree = tree.setdefault(group, {})
        if not isinstance(tree, dict):
            raise UsageError(f"--{name}: {group} = {tree!r} is not a table. Remove one of the two settings.")
    tree[leaf] = value


def parse(name: str, text: str) -> Any:
    """Parse a value of the command line as TOML, or a fraction (8/255). `none` unsets a setting that may be unset.

    A text that is not TOML is a string. The value of a string or path setting stays a string even if it looks like
    another TOML value (2026-01-01).

    Raises:
        UsageError: the setting is not a flag, but its value is missing, true or false.
    """
    kinds = _kinds(name)
    if text == "none" and type(None) in kinds:
        return None
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return _fraction(text) if float in kinds and FRACTION.fullmatch(text) else text
    if kinds & {str, Path}:
        return value if isinstance(value, str) else text
    if isinstance(value, bool) and bool not in kinds:
        raise UsageError(f"--{name} {text}: not a flag, a value is needed. See `sparring config schema`.")
    return value


def _fraction(text: str) -> float:
    above, below = text.split("/")
    return float(above) / float(below)


def _kinds(name: str) -> set[Any]:
    """The types that a setting may have. An option may have any; its function checks it."""
    if _is_option(name) or name.endswith(OPTIONS):
        return {bool, type(None)}
    model: type[BaseModel] = Config
    *groups, leaf = name.split(".")
    for group in groups:
        kind = model.model_fields[group].annotation
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            raise TypeError(f"{name}: {group} is no group of settings")
        model = kind
    annotation = model.model_fields[leaf].annotation
    return {annotation} if get_origin(annotation) is tuple else {annotation, *get_args(annotation)}


def overridden(config: Config, values: dict[str, Any]) -> Config:
    """The configuration with some settings changed (by dotted name), validated again."""
    tree = config.model_dump(mode="json", exclude_none=True)
    for name, value in values.items():
        _put(tree, name, value)
    return from_tree(tree)


def with_absolute_paths(config: Config) -> Config:
    """The configuration with absolute paths to data, weights, methods and secrets, so that a run can be resumed from
    any folder."""
    changes: dict[str, Any] = {f"{group}.name": plugins.absolute(getattr(config, group).name) for group in NAMED}
    for name, value in (("data.name", config.data.name), ("data.extra", config.data.extra or "")):
        kind, colon, path = value.partition(":")
        if colon and kind in FILES:
            changes[name] = f"{kind}:{Path(path).expanduser().resolve()}"
    paths = {
        "data.root": config.data.root,
        "model.checkpoint": config.model.checkpoint,
        "corruptions.root": config.corruptions.root,
        "metrics.file_sd": config.metrics.file_sd,
        "queue.password_file": config.queue.password_file,
        "queue.access": config.queue.access,
    }
    for name, setting in paths.items():
        if setting is not None:
            changes[name] = str(setting.expanduser().resolve())
    return overridden(config, changes)
