"""data.name leads to what is built in and to the user's own, which is called for each split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sparring.config import DataSettings, from_tree
from sparring.data import Dataset, load, load_extra
from sparring.data.sources import Split
from sparring.errors import SparringError, UsageError
from sparring.trainer.experiment import build_experiment

OWN = """
import numpy as np
import torch

def arrays(split, count=12, floats=False, classes=4):
    images = np.arange(count * 30, dtype=np.uint8).reshape(count, 5, 6)
    if split == "test":
        return (images[:4] / 255 if floats else images[:4]), np.zeros(4, int)
    return (images / 255 if floats else images), np.arange(count) % classes

class Rooted(torch.utils.data.Dataset):
    def __init__(self, split, root, extra="x"):
        self.root, self.split, self.classes = root, split, ["a", "b", "c"]

    def __len__(self):
        return 5

    def __getitem__(self, index):
        shade = len(str(self.root)) + (100 if self.split == "test" else 0)
        return torch.full((1, 5, 6), shade, dtype=torch.uint8), index % 2

def no_split():
    return np.zeros((3, 5, 6), np.uint8), np.zeros(3, int)

def missing(split):
    raise FileNotFoundError("no such file: cats")

def refused(split, size=3):
    raise ValueError("size must be even")

def nothing(split):
    return None
"""


SPLITS: tuple[Split, ...] = ("train", "test")


@pytest.fixture
def own(tmp_path: Path) -> str:
    (tmp_path / "mydata.py").write_text(OWN)
    return f"{tmp_path}/mydata.py"


def given(name: str, split: Split = "train", **settings: object) -> Dataset:
    return load(DataSettings.model_validate({"name": name, **settings}), split)


def test_data_of_ones_own_are_made_with_their_options_and_limited(own: str) -> None:
    assert len(given(f"{own}:arrays")) == 12
    dataset = given(f"{own}:arrays", options={"count": 8, "classes": 3}, limit=5)
    assert (len(dataset), dataset.shape, dataset.classes) == (5, (1, 5, 6), 3)
    assert torch.bincount(dataset.labels).tolist() == [2, 2, 1]


def test_test_data_have_the_classes_of_training(own: str) -> None:
    test = given(f"{own}:arrays", "test")
    assert (len(test), test.classes, set(test.labels.tolist())) == (4, 4, {0})
    assert given(f"{own}:Rooted", "test", root="ab").classes == 3, "declared"


def test_root_is_passed_to_what_takes_it(own: str) -> None:
    shades = [given(f"{own}:Rooted", split, root="/ab").images(torch.tensor([0])) for split in SPLITS]
    assert [int(shade.float().mean()) for shade in shades] == [3, 103]
    assert len(given(f"{own}:arrays", root="/ab")) == 12
    with pytest.raises(UsageError, match=r"data\.options\.root is missing. Set it; Rooted takes root"):
        given(f"{own}:Rooted")


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("no_split", {}, "has no parameter `split`. It is called with split='train' and with split='test'"),
        ("arrays", {"size": 3}, "data.options.size = 3: no such option; arrays takes count = 12"),
        ("arrays", {"split": "train"}, "data.options.split = 'train': the run already passes split"),
        ("refused", {}, "data.name: refused refuses its arguments: size must be even"),
        ("nothing", {}, "a NoneType cannot be used as data"),
        ("array", {}, "mydata.py has no 'array'; the nearest is arrays"),
    ],
)
def test_data_of_ones_own_that_cannot_be_used_are_refused(
    own: str, name: str, options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(UsageError) as raised:
        given(f"{own}:{name}", options=options)
    assert problem in str(raised.value)


def test_any_error_of_ones_own_code_is_told_with_its_place(own: str) -> None:
    said = r"^data\.name: missing fails \(FileNotFoundError: no such file: cats, mydata\.py:\d+\)\.$"
    with pytest.raises(UsageError, match=said):
        given(f"{own}:missing")


def test_what_is_built_in_takes_no_options() -> None:
    with pytest.raises(UsageError, match=r"data\.options\.size = 3: no such option; digits takes no options"):
        given("digits", options={"size": 3})


def test_floats_are_refused_by_the_name_of_what_needs_bytes(own: str, tmp_path: Path) -> None:
    floats: dict[str, Any] = {"name": f"{own}:arrays", "options": {"floats": True}}
    assert given(**floats).images(torch.tensor([0])).dtype == torch.float32
    with pytest.raises(UsageError, match=r"data\.size = 12 needs uint8 images, but the data have float images"):
        given(**floats, size=12)
    augmix = {"data": floats, "attack": {"name": "augmix"}, "objective": {"name": "augmix"}}
    with pytest.raises(UsageError, match=r"attack\.name = 'augmix' needs uint8 images"):
        build_experiment(from_tree(augmix))
    np.savez(tmp_path / "extra.npz", images=np.zeros((4, 5, 6), np.uint8), labels=np.zeros(4, int))
    settings = DataSettings.model_validate({**floats, "extra": f"npz:{tmp_path}/extra.npz"})
    with pytest.raises(SparringError, match=r"data\.extra = .* needs uint8 images"):
        load_extra(settings, load(settings, "train"))
