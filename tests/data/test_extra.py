"""Extra images beside the real ones: read from memory or from a mapped file, or refused with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sparring.config import DataSettings
from sparring.data import Concatenated, Dataset, batch, load, load_extra
from sparring.errors import SparringError, UsageError

Arrays = dict[str, Any]


def arrays(count: int = 20, side: int = 8, channels: int | None = None) -> Arrays:
    random = np.random.default_rng(7)
    shape = (count, side, side) if channels is None else (count, side, side, channels)
    return {"images": random.integers(0, 256, shape, dtype=np.uint8), "labels": np.arange(count) % 10}


def saved(folder: Path, content: Arrays) -> dict[str, str]:
    """The two ways to give the same images."""
    np.savez(folder / "extra.npz", **content)
    (folder / "extra").mkdir()
    for name, array in content.items():
        np.save(folder / "extra" / f"{name}.npy", array)
    return {"file": f"npz:{folder / 'extra.npz'}", "folder": f"npz:{folder / 'extra'}"}


def given(name: str, **data: Any) -> Dataset:
    settings = DataSettings.model_validate({"extra": name, **data})
    return load_extra(settings, load(settings, "train"))


def test_a_file_and_a_mapped_folder_hold_the_same(tmp_path: Path) -> None:
    content = arrays()
    for name in saved(tmp_path, content).values():
        extra = given(name)
        assert torch.equal(extra.images(torch.tensor([3, 19])), torch.from_numpy(content["images"][[3, 19], None]))
        assert extra.labels.tolist() == content["labels"].tolist() and extra.shape == (1, 8, 8)
    assert len({given(name).fingerprint for name in (f"npz:{tmp_path}/extra.npz", f"npz:{tmp_path}/extra")}) == 1


def test_floats_of_a_file_are_scaled_and_those_of_a_mapped_folder_are_refused(tmp_path: Path) -> None:
    names = saved(tmp_path, {**arrays(), "images": arrays()["images"] / 255})
    assert torch.equal(given(names["file"]).images(torch.arange(20))[:, 0], torch.from_numpy(arrays()["images"]))
    with pytest.raises(UsageError, match=r"uint8 in 0\.\.255 is needed"):
        given(names["folder"])


def test_a_folder_of_arrays_is_not_read_into_memory(tmp_path: Path) -> None:
    name = saved(tmp_path, arrays())["folder"]
    extra = given(name)
    before = extra.images(torch.tensor([0]))
    with (tmp_path / "extra" / "images.npy").open("r+b") as file:
        file.seek(-20 * 64, 2)
        file.write(bytes(64))
    assert int(before.sum()) > 0 and int(extra.images(torch.tensor([0])).sum()) == 0


def test_the_names_of_the_published_sets_are_understood(tmp_path: Path) -> None:
    content = arrays()
    np.savez(tmp_path / "1m.npz", image=content["images"], label=content["labels"])
    assert len(given(f"npz:{tmp_path}/1m.npz")) == 20


def test_indices_beyond_the_real_ones_name_extra_examples(tmp_path: Path) -> None:
    real, extra = load(DataSettings(), "train"), given(saved(tmp_path, arrays())["folder"])
    both = Concatenated(real, extra)
    indices = torch.tensor([1437, 5, 1456, 1436])
    images = torch.cat([extra.images(torch.tensor([0])), real.images(torch.tensor([5]))])
    assert torch.equal(both.images(indices)[:2], images)
    assert len(both) == 1457 and both.labels[indices].tolist() == [
        0,
        *real.labels[[5]].tolist(),
        9,
        int(real.labels[-1]),
    ]
    assert len({both.fingerprint, real.fingerprint, extra.fingerprint, Concatenated(extra, real).fingerprint}) == 4


@pytest.mark.parametrize("augment", ["none", "crop_flip", "resized_crop_flip"])
def test_an_example_is_augmented_alike_in_any_mixture(tmp_path: Path, augment: str) -> None:
    name = saved(tmp_path, arrays(side=12))["folder"]
    settings = DataSettings.model_validate({"extra": name, "size": 10})
    both = Concatenated(load(settings, "train"), given(name, size=10))
    indices = torch.tensor([1440, 7, 1439, 900])
    together, _ = batch(both, indices, augment=augment, seed=2, epoch=1, size=6)
    for position, index in enumerate(indices.tolist()):
        alone, _ = batch(both, torch.tensor([index]), augment=augment, seed=2, epoch=1, size=6)
        assert torch.equal(alone[0], together[position])


@pytest.mark.parametrize(
    ("content", "reported"),
    [
        (arrays(side=9), r"images of \(1, 9, 9\), data\.name = 'digits' of \(1, 8, 8\)"),
        (arrays(channels=3), r"images of \(3, 8, 8\), data\.name = 'digits' of \(1, 8, 8\)"),
        ({**arrays(), "labels": np.arange(20) % 11}, r"labels from 0 to 10 lie outside the 10 classes"),
        ({**arrays(), "labels": np.arange(19) % 10}, "20 images and 19 labels"),
        ({**arrays(), "labels": np.zeros(20)}, "one integer per image"),
        ({**arrays(), "images": np.full((20, 8, 8), "a")}, "not an NPZ|images are <U1|readable arrays"),
    ],
)
def test_what_does_not_fit_the_real_images_is_refused(tmp_path: Path, content: Arrays, reported: str) -> None:
    for name in saved(tmp_path, content).values():
        with pytest.raises(SparringError, match=rf"data\.extra = '{name}'.*{reported}"):
            given(name)


def test_other_sizes_are_brought_to_that_of_the_run(tmp_path: Path) -> None:
    assert given(saved(tmp_path, arrays(side=9))["file"], size=6).shape == (1, 6, 6)


@pytest.mark.parametrize("name", ["folder:there", "npz:", "there.npz"])
def test_what_is_no_npz_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"data\.extra = .*npz:FILE, or npz:FOLDER"):
        given(name)


def test_missing_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(SparringError, match=r"data\.extra = .* is not an NPZ file"):
        given(f"npz:{tmp_path}/none.npz")
    with pytest.raises(SparringError, match=r"does not have readable arrays images\.npy and labels\.npy"):
        given(f"npz:{tmp_path}")
