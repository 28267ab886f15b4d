"""Every setting is described and bounded; a value that cannot be is refused by name, with the bound."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sparring.config import Config, QueueSettings, flatten, from_tree, load, setting_names
from sparring.errors import UsageError


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("attack.warmup_epochs", "inf", "finite"),
        ("optimizer.lr", "nan", "finite"),
        ("schedule.milestones", "[0.8, 0.5]", "rising"),
        ("schedule.milestones", "[0.5, 1.5]", "between 0 and 1"),
    ],
)
def test_what_no_schedule_could_follow_is_refused_by_name(name: str, text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as refusal:
        load(None, {name: text})
    assert name in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "text", "bound"),
    [
        ("attack.epsilon", "0", "greater than 0"),
        ("attack.epsilon", "nan", "finite"),
        ("optimizer.momentum", "1", "less than 1"),
        ("train.seed", "2147483648", "less than 2147483648"),
        ("train.epochs", "1.5", "valid integer"),
        ("metrics.port", "65536", "less than or equal to 65535"),
        ("workers.count", "-1", "greater than or equal to 0"),
        ("attack.norm", "l1", "'linf' or 'l2'"),
        ("staleness.refresh", "3", "0, 1, 2 or 'auto'"),
        ("run.name", "../there", "letters, digits"),
        ("train.epochs", "none", "valid integer"),
        ("schedule.milestones", "0.5", "valid tuple"),
    ],
)
def test_a_value_out_of_bounds_is_refused_with_the_bound(name: str, text: str, bound: str) -> None:
    with pytest.raises(UsageError) as raised:
        load(None, {name: text})
    reported = str(raised.value)
    assert reported.startswith(f"{name} = ") and bound in reported and "\n" not in reported


@pytest.mark.parametrize("name", list(setting_names()))
def test_every_setting_has_a_description_a_unit_and_a_default_in_the_schema(name: str) -> None:
    schema = Config.model_json_schema()
    *groups, leaf = name.split(".")
    node = schema
    for group in groups:
        node = schema["$defs"][node["properties"][group]["$ref"].rsplit("/", 1)[1]]
    described = node["properties"][leaf]
    assert described["description"].strip() and described["unit"].strip()
    assert described["default"] == ({} if leaf == "options" else flatten(Config())[name])


def test_the_schema_is_json() -> None:
    assert json.loads(json.dumps(Config.model_json_schema()))["title"] == "Config"


@pytest.mark.parametrize(
    ("options", "reported"),
    [
        ({"gamma": float("nan")}, "gamma must be a string, flag, finite number, list or table, not nan"),
        ({"paths": [Path("a")]}, "paths must be a string"),
        ({"inner": {"gamma": None}}, "inner must be a string"),
        ({"a-b": 1}, "'a-b' is not a valid name of a keyword argument"),
        (3, "valid dictionary"),
    ],
)
def test_options_that_toml_or_a_function_cannot_hold_are_refused(options: Any, reported: str) -> None:
    with pytest.raises(UsageError) as raised:
        from_tree({"objective": {"options": options}})
    assert str(raised.value).startswith("objective.options = ") and reported in str(raised.value)


@pytest.mark.parametrize(
    ("data", "reported"),
    [
        ({"mean": 0.5}, "data.mean and data.std must be set together"),
        ({"mean": 0.5, "std": 0.0}, "must be above 0"),
        ({"mean": [125.3, 123.0, 113.9], "std": [63.0, 62.1, 66.7]}, "divide a mean and a std in grey levels by 255"),
        ({"mean": [0.5], "std": [1.0, -1.0]}, "must be above 0"),
    ],
)
def test_a_normalisation_that_cannot_be_is_refused(data: dict[str, Any], reported: str) -> None:
    with pytest.raises(UsageError, match=reported):
        from_tree({"data": data})


def test_a_url_is_read_from_the_environment_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARRING_TEST_URL", "redis://10.0.0.1:6380/0")
    assert QueueSettings(redis_url="$SPARRING_TEST_URL").redis_url == "redis://10.0.0.1:6380/0"
    with pytest.raises(ValueError, match="the environment variable SPARRING_ABSENT is not set"):
        QueueSettings(redis_url="$SPARRING_ABSENT")


@pytest.mark.parametrize(
    ("tree", "reason"),
    [
        ({"data": {"phases": [{"until": 0.5, "size": 8}, {"until": 0.5, "size": 16}]}}, "must rise in until"),
        ({"evaluation": {"version": "plus"}}, "need evaluation.attack = 'autoattack'"),
        ({"evaluation": {"attack": "autoattack", "attacks": ["fab", "fab"]}}, "names an attack twice"),
        ({"evaluation": {"attack": "autoattack", "version": "plus", "attacks": ["fab"]}}, "set only one of them"),
        ({"optimizer": {"name": "adam", "nesterov": True}}, "optimizer.nesterov needs optimizer.name = 'sgd'"),
        ({"optimizer": {"name": "sgd", "momentum": 0.0, "nesterov": True}}, "optimizer.momentum above 0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(tree: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        from_tree(tree)


def test_a_configuration_cannot_be_changed_once_it_is_made() -> None:
    config = Config()
    with pytest.raises(ValueError, match="frozen"):
        config.attack.steps = 3
    assert config == Config()


def test_normalisation_is_set_whole_or_not_at_all() -> None:
    assert Config().data.normalize is None
    assert from_tree({"data": {"mean": [0.1, 0.2, 0.3], "std": 0.5}}).data.normalize == ((0.1, 0.2, 0.3), 0.5)


@pytest.mark.parametrize(
    "url",
    ["redis://:hunter2@host/0", "rediss://user:hunter2@host:1/0", "redis://host/0?password=hunter2", "$SPARRING_URL"],
)
def test_a_password_in_the_queues_url_is_refused_and_not_shown(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARRING_URL", "redis://:hunter2@host/0")
    with pytest.raises(UsageError, match=r"queue\.redis_url = .*holds a password.*password_file") as refused:
        from_tree({"queue": {"redis_url": url}})
    assert "hunter2" not in str(refused.value)


def test_a_users_name_in_the_queues_url_is_no_password() -> None:
    assert from_tree({"queue": {"redis_url": "redis://user@host/0"}}).queue.redis_url == "redis://user@host/0"
