"""What the driver hands to its actors: where modules are, the user's files, and objects passed from Python."""

from __future__ import annotations

import os
import sys

import pytest
from torch import nn

from sparring import plugins
from sparring.engines.ray.actor_inputs import ActorInputs, actor_inputs
from sparring.trainer.experiment import NOTHING_PASSED


def test_nothing_passed_needs_no_ray_object_and_names_the_working_directory() -> None:
    made = actor_inputs({}, NOTHING_PASSED)
    assert made.live == () and made.python_path == (os.getcwd(), *sys.path)
    assert made.unpack() == NOTHING_PASSED


def test_an_actor_finds_modules_and_files_that_its_host_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    source = "import torch\n\n\ndef network(shape, classes):\n    return torch.nn.Linear(1, classes)\n"
    ActorInputs(("/of/the/driver",), {"/not/here/mynet.py": source}, ()).unpack()
    try:
        assert sys.path[0] == "/of/the/driver"
        make = plugins.resolve("model.name", "/not/here/mynet.py:network", {})
        assert callable(make) and isinstance(make((1, 8, 8), 10), nn.Linear)
    finally:
        plugins.forget_installed()
