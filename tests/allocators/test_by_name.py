"""The allocator that a recipe names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sparring.allocators import Allocator
from sparring.allocators.bullettrain import BulletTrain
from sparring.allocators.by_name import allocator_of
from sparring.allocators.oracle import Oracle
from sparring.config import AllocatorSettings
from sparring.errors import UsageError

GIVEN = {"boundary_steps": 7, "robust_steps": 3, "outlier_steps": 1, "gamma": 0.5, "momentum": 0.7}


def allocator(**values: Any) -> Allocator | None:
    return allocator_of(AllocatorSettings.model_validate(values))


@pytest.mark.parametrize(("name", "kind"), [("bullettrain", BulletTrain), ("oracle", Oracle)])
def test_a_built_in_is_given_the_settings_of_its_group(name: str, kind: type) -> None:
    made = allocator(name=name, **GIVEN)
    assert type(made) is kind and vars(made) == GIVEN


def test_none_is_no_allocator() -> None:
    assert allocator() is None


@pytest.fixture
def own(tmp_path: Path) -> str:
    """A file with allocators of one's own."""
    path = tmp_path / "own.py"
    path.write_text(
        "from sparring.allocators import Allocator\n"
        "class Mine(Allocator):\n"
        "    classes = ('all',)\n"
        "    def __init__(self, robust_steps, share=0.5):\n"
        "        self.robust_steps, self.share = robust_steps, share\n"
        "def number():\n"
        "    return 3\n"
    )
    return str(path)


def test_one_of_the_users_own_is_given_its_options_too(own: str) -> None:
    made = allocator(name=f"{own}:Mine", robust_steps=4, options={"share": 0.25})
    assert made is not None and made.classes == ("all",)
    assert vars(made) == {"robust_steps": 4, "share": 0.25}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "bullet"}, r"allocator\.name = 'bullet': no such name; the nearest is bullettrain"),
        ({"name": "bullettrain", "options": {"share": 1}}, r"allocator\.options\.share = 1: no such option"),
        ({"name": "{own}:number"}, r"made a int: a sparring\.allocators\.Allocator is needed"),
    ],
)
def test_what_is_no_allocator_is_refused(own: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        allocator(**{**settings, "name": settings["name"].format(own=own)})
