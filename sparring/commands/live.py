"""Objects that are passed from Python instead of being named by the recipe: a model, data."""

from __future__ import annotations

import logging
from typing import Any

import cloudpickle
import torch
from torch import nn

from sparring.config import Config, differences, overridden
from sparring.data import prepared, scaled, wrap
from sparring.errors import UsageError
from sparring.models.outputs import outputs_of
from sparring.trainer.experiment import Live

log = logging.getLogger(__name__)
REPLACED_BY_MODEL = ("model.name", "model.checkpoint", "model.pretrained")
PREFIX = "python:"  # how a run records that an object was passed: what it is called follows


def live_objects(model: nn.Module | None, train_data: object, test_data: object, config: Config) -> Live:
    """What was passed, checked and wrapped.

    Raises:
        UsageError: one of the two data sets is missing, or an object is not what it should be.
    """
    if model is not None and not isinstance(model, nn.Module):
        raise UsageError(f"model is a {type(model).__name__}: a torch.nn.Module is needed.")
    if (train_data is None) != (test_data is None):
        missing = "train_data" if train_data is None else "test_data"
        raise UsageError(f"{missing} is missing: data are passed for training and for testing, or not at all.")
    if train_data is None:
        return Live(model)
    classes = _classes(model, train_data, config)
    training = prepared(wrap(train_data, "train_data", classes), config.data, "train")
    return Live(model, training, prepared(wrap(test_data, "test_data", classes), config.data, "test"))


def _classes(model: nn.Module | None, train_data: object, config: Config) -> int:
    """Those that the model tells apart: of a few examples the last classes may be missing."""
    training = prepared(wrap(train_data, "train_data"), config.data, "train")
    if model is None:
        return training.classes
    return outputs_of(model, scaled(training.images(torch.arange(1))), training.classes)


def recorded(config: Config, live: Live, model: object, data: object) -> Config:
    """The configuration with the names of what was passed, so that a run says what it needs to go on.

    Settings that name something else, which is not used, are warned of.
    """
    changes = {}
    if live.model is not None:
        changes["model.name"] = f"{PREFIX}{type(model).__name__}"
    if live.training is not None:
        changes["data.name"] = f"{PREFIX}{type(data).__name__}"
    for setting, ignored in _ignored(config, live).items():
        log.warning("%s = %r is ignored: %s was passed from Python.", setting, *ignored)
    return overridden(config, changes)


def _ignored(config: Config, live: Live) -> dict[str, tuple[object, str]]:
    """The settings that what was passed takes the place of, as far as they are not the defaults: value, argument."""
    argument_of = {
        **({} if live.training is None else {"data.name": "train_data"}),
        **({} if live.model is None else dict.fromkeys(REPLACED_BY_MODEL, "model")),
    }
    changed = differences(Config(), config)
    return {name: (str(changed[name][1]), argument) for name, argument in argument_of.items() if name in changed}


class _Nowhere:
    """A file that keeps nothing of what is written."""

    def write(self, content: Any) -> int:
        return len(content)


def require_sendable(config: Config, live: Live) -> None:
    """Refuse objects that cannot reach the other processes of the run.

    Raises:
        UsageError: one cannot be pickled.
    """
    if config.engine not in ("ray", "ddp"):
        return
    for argument, value in (("model", live.model), ("train_data", live.training), ("test_data", live.test)):
        try:
            cloudpickle.dump(value, _Nowhere())
        except Exception as error:  # whatever the objects' own code raises
            raise UsageError(
                f"{argument} cannot be sent to the other processes of engine = {config.engine!r} "
                f"({type(error).__name__}: {error}). Make it picklable (open files and locks in the process that "
                f"uses them), or set engine to 'sync'."
            ) from error


def require_passed(config: Config, live: Live, *, data: bool = True) -> None:
    """Refuse to go on without the objects that a run was started with; without its data only where they are needed.

    Raises:
        UsageError: one of them is missing.
    """
    for name, value, passed, argument in (
        ("model.name", config.model.name, live.model, "model=…"),
        ("data.name", config.data.name, live.training, "train_data=…, test_data=…"),
    ):
        if value.startswith(PREFIX) and passed is None and (data or name == "model.name"):
            raise UsageError(
                f"{name} = {value!r}: the run was started from Python with an object, which no file holds. Pass it "
                f"again, from Python: {argument}."
            )
