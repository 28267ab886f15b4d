"""What is passed from Python is checked before anything is made, and its record says what a run needs to go on."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from sparring.commands.live import live_objects, recorded, require_passed, require_sendable
from sparring.config import Config, from_tree
from sparring.errors import UsageError
from sparring.trainer.experiment import Live

IMAGES, LABELS = torch.zeros(20, 1, 8, 8, dtype=torch.uint8), torch.arange(20) % 5


def passed(model: Any = None, train_data: object = None, test_data: object = None, **data: Any) -> Live:
    return live_objects(model, train_data, test_data, from_tree({"data": data}))


def test_data_are_as_large_and_as_many_as_the_settings_say_and_test_data_are_whole() -> None:
    live = passed(None, (IMAGES, LABELS), TensorDataset(IMAGES, LABELS), size=12, limit=7)
    assert live.training is not None and live.test is not None and live.model is None
    assert (len(live.training), len(live.test)) == (7, 20)
    assert live.training.images(torch.arange(2)).shape == live.test.images(torch.arange(2)).shape == (2, 1, 12, 12)


def test_the_classes_are_those_of_the_training_data() -> None:
    live = passed(None, (IMAGES, LABELS), (IMAGES[:4], LABELS[:4]))
    assert live.test is not None and live.test.classes == 5
    with pytest.raises(UsageError, match=r"^test_data: labels range from 0 to 4, and there are 3 classes"):
        passed(None, (IMAGES, LABELS % 3), (IMAGES, LABELS))


def test_a_model_of_more_classes_than_the_examples_show_says_how_many_there_are() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    live = passed(model, (IMAGES, LABELS), (IMAGES, LABELS % 3))
    assert live.training is not None and live.test is not None
    assert live.training.classes == live.test.classes == 10
    with pytest.raises(UsageError, match="model returns 10 logits, but data has 20 classes"):
        passed(model, (IMAGES, torch.arange(20)), (IMAGES, LABELS))


@pytest.mark.parametrize(
    ("objects", "reason"),
    [
        ({"model": "resnet"}, "model is a str: a torch.nn.Module is needed"),
        ({"model": nn.Linear}, "model is a type: a torch.nn.Module is needed"),
        ({"train_data": (IMAGES, LABELS)}, "test_data is missing: data are passed for training and for testing"),
        ({"test_data": (IMAGES, LABELS)}, "train_data is missing"),
        ({"train_data": (IMAGES, LABELS), "test_data": 3}, "test_data: a int cannot be used as data"),
        ({"train_data": (IMAGES, LABELS.float()), "test_data": (IMAGES, LABELS)}, "train_data: labels are float32"),
    ],
)
def test_what_cannot_be_used_is_refused_by_the_arguments_name(objects: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=f"^{reason}"):
        passed(**objects)


def test_the_record_names_what_was_passed_and_leaves_the_rest() -> None:
    config, model, data = Config(), nn.Flatten(), TensorDataset(IMAGES, LABELS)  # 64 outputs
    live = passed(model, data, data)
    made = recorded(config, live, model, data)
    assert (made.model.name, made.data.name) == ("python:Flatten", "python:TensorDataset")
    assert recorded(config, passed(), None, None) == config
    assert recorded(config, passed(model), model, None).data.name == "digits"


def test_a_run_goes_on_only_with_the_objects_that_it_was_started_with() -> None:
    model, data = nn.Flatten(), (IMAGES, LABELS)
    live = passed(model, data, data)
    config = recorded(Config(), live, model, data)
    require_passed(config, live)
    with pytest.raises(UsageError, match=r"^model\.name = 'python:Flatten': .* again, from Python: model=…"):
        require_passed(config, Live(training=live.training, test=live.test))
    with pytest.raises(UsageError, match=r"^data\.name = 'python:tuple': .* train_data=…, test_data=…"):
        require_passed(config, Live(model))
    require_passed(config, Live(model), data=False)
    require_passed(Config(), Live())


class Locked(nn.Linear):
    """Holds a lock, as a network with a cache or an open file does."""

    def __init__(self) -> None:
        super().__init__(64, 5)
        self.lock = threading.Lock()


@pytest.mark.parametrize("engine", ["ray", "ddp"])
def test_an_object_that_cannot_reach_the_other_processes_is_refused(engine: str) -> None:
    with pytest.raises(UsageError, match=rf"model cannot be sent .* engine = '{engine}' \(TypeError: cannot pickle"):
        require_sendable(from_tree({"engine": engine}), Live(Locked()))
    require_sendable(from_tree({"engine": engine}), Live(nn.Linear(64, 5)))
    require_sendable(from_tree({"engine": "sync"}), Live(Locked()))


def test_settings_that_the_objects_take_the_place_of_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    model, data = nn.Sequential(nn.Flatten(), nn.Linear(64, 5)), (IMAGES, LABELS)
    config = from_tree({"data": {"name": "mnist"}, "model": {"checkpoint": "w.pt"}})
    recorded(config, passed(model, data, data), model, data)
    assert [record.getMessage() for record in caplog.records] == [
        "data.name = 'mnist' is ignored: train_data was passed from Python.",
        "model.checkpoint = 'w.pt' is ignored: model was passed from Python.",
    ]
    caplog.clear()
    recorded(config, passed(), None, None)
    recorded(Config(), passed(model, data, data), model, data)
    assert caplog.records == []
