"""Everything is checked at once and first: what cannot work is refused before a folder is made or a server started."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from sparring.commands.checks import check, check_resources, require_loadable
from sparring.commands.live import live_objects
from sparring.commands.train import resume, train
from sparring.config import config_of, from_tree
from sparring.errors import SparringError, UsageError
from sparring.models import build
from tests.support.runs import small, stopped_at

IMAGES, LABELS = np.zeros((20, 8, 8), np.uint8), np.arange(20) % 10


@pytest.mark.parametrize(
    ("groups", "reason"),
    [
        ({"attack": {"start": "previous"}, "engine": "ray"}, r"attack\.start = 'previous' with engine = 'ray'"),
        ({"staleness": {"max_staleness": 0, "publish_every": 3}}, r"max_staleness >= publish_every - 1 fails"),
        ({"workers": {"count": 0}, "staleness": {"trainer_attacks": "never"}}, r"workers\.count = 0 .* nobody would"),
        ({"metrics": {"file_sd": "{folder}/file/targets"}}, r"metrics\.file_sd = .*file/targets"),
        ({"metrics": {"trackers": ["wandb"]}}, r"wandb is not installed"),
        ({"model": {"name": "python:Net"}}, r"model\.name = 'python:Net': the run was started from Python"),
        ({"model": {"name": "digits-cmm"}}, r"model\.name = 'digits-cmm': no such name"),
        ({"model": {"checkpoint": "{folder}/nowhere"}}, r"model\.checkpoint = .*nowhere.* is not a file"),
        ({"data": {"name": "npz:{folder}/data"}}, r"data\.name = .*data.*test\.npz"),
        ({"schedule": {"name": "one_cicle"}}, r"schedule\.name = 'one_cicle': no such name"),
    ],
)
def test_whatever_is_wrong_is_refused_with_its_setting_and_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: dict[str, dict[str, Any]], reason: str
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    (tmp_path / "file").touch()
    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data" / "train.npz", images=IMAGES, labels=LABELS)
    for settings in (each for each in groups.values() if isinstance(each, dict)):
        named = {name: value for name, value in settings.items() if isinstance(value, str)}
        settings.update({name: value.format(folder=tmp_path) for name, value in named.items()})
    with pytest.raises(SparringError, match=reason):
        check(small(tmp_path / "runs", **groups), starts=True)
    assert not (tmp_path / "runs").exists()


Change = Callable[[np.ndarray[Any, Any], np.ndarray[Any, Any]], tuple[Any, Any]]
CHANGES: dict[str, Change] = {
    "an example less": lambda images, labels: (images[1:], labels[1:]),
    "two of a class change places": lambda images, labels: (images[[10, *range(1, 10), 0, *range(11, 20)]], labels),
    "another label": lambda images, labels: (images, np.array([1, *labels[1:]])),
    "another pixel": lambda images, labels: (images ^ (np.arange(images.size) == 77).reshape(images.shape), labels),
}


def save_data(folder: Path, kind: str, images: Any, labels: Any) -> dict[str, Any]:
    """The training images as this kind of data; the settings that name them."""
    for split in ("train", "test"):
        if kind == "folder":
            shutil.rmtree(folder / split, ignore_errors=True)
            for number, (image, label) in enumerate(zip(images, labels, strict=True)):
                (folder / split / str(label)).mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(folder / split / str(label) / f"{number:02d}.bmp")
        np.savez(folder / f"{split}.npz", images=images, labels=labels)
    if kind == "extra":
        return {"limit": 20, "extra": f"npz:{folder / 'train.npz'}"}
    return {} if kind == "live" else {"name": f"{kind}:{folder}"}


@pytest.mark.parametrize("kind", ["npz", "folder", "extra", "live"])
def test_a_resume_on_other_training_data_is_refused(tmp_path: Path, kind: str) -> None:
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (20, 8, 8), np.uint8), np.arange(20) % 10

    def passed(images: Any, labels: Any) -> dict[str, Any]:
        items = list(zip(images, labels.tolist(), strict=True))
        return {"train_data": items, "test_data": items} if kind == "live" else {}

    config = small(
        tmp_path / "runs", engine="sync", data=save_data(tmp_path, kind, images, labels), train={"max_steps": 1}
    )
    run = train(config, progress=False, **passed(images, labels)).run

    def resumed(images: Any, labels: Any) -> None:
        save_data(tmp_path, kind, images, labels)
        given = passed(images, labels)
        live = live_objects(None, given.get("train_data"), given.get("test_data"), config)
        require_loadable(run, config_of(run), live)

    resumed(images, labels)
    for name, change in CHANGES.items():
        with pytest.raises(UsageError, match=r"began with \d+ training examples \(fingerprint .*Put the data back"):
            resumed(*change(images, labels))
            pytest.fail(name)


def test_a_resume_without_the_description_of_the_data_writes_it_again(tmp_path: Path) -> None:
    run = stopped_at(2, tmp_path, engine="sync")
    described = run.data.read_text()
    run.data.unlink()
    resume(run.path, progress=False)
    assert run.data.read_text() == described


def mlp(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A network whose batch norm has one value per example and channel."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, classes))


MLP = {"name": f"{__name__}:mlp"}


@pytest.mark.parametrize(
    "groups",
    [
        {"engine": "sync", "train": {"batch_size": 1}},
        {"engine": "sync", "train": {"batch_size": 1, "shards_per_step": 3}, "data": {"limit": 7}},
        {"engine": "ddp", "train": {"batch_size": 1, "shards_per_step": 2}, "data": {"limit": 8}},
        {
            "engine": "sync",
            "data": {"limit": 8},
            "train": {"epochs": 2},
            "pruning": {"name": "random", "share": 0.9, "epoch": 1},
        },
    ],
)
def test_a_step_on_a_single_example_is_refused_where_there_is_batch_norm(
    tmp_path: Path, groups: dict[str, Any]
) -> None:
    with pytest.raises(UsageError, match=r"train\.batch_size = .* has batch norm"):
        check(small(tmp_path, model=MLP, **groups), starts=True)
    assert check(small(tmp_path, **groups), starts=True)


@pytest.mark.parametrize(
    ("train", "limit"), [({"batch_size": 64}, 65), ({"batch_size": 1, "shards_per_step": 3}, 8), ({"batch_size": 2}, 5)]
)
def test_one_example_that_is_left_over_is_not_refused(tmp_path: Path, train: dict[str, int], limit: int) -> None:
    assert check(small(tmp_path, engine="sync", model=MLP, train=train, data={"limit": limit}), starts=True)


def test_a_test_set_of_another_size_is_refused_unless_all_are_brought_to_one(tmp_path: Path) -> None:
    np.savez(tmp_path / "train.npz", images=IMAGES, labels=LABELS)
    np.savez(tmp_path / "test.npz", images=IMAGES[:, :6, :6], labels=LABELS)
    data = {"name": f"npz:{tmp_path}"}
    with pytest.raises(UsageError, match=r"test images are \(1, 6, 6\) and training images \(1, 8, 8\)"):
        check(small(tmp_path, engine="sync", data=data), starts=True)
    assert check(small(tmp_path, engine="sync", data={**data, "size": 8}), starts=True).test().shape == (1, 8, 8)


def test_a_start_has_the_weights_that_it_starts_from_and_a_resume_does_not_ask_for_them(tmp_path: Path) -> None:
    config = small(tmp_path, engine="sync", model={"checkpoint": str(tmp_path / "start.safetensors")})
    start = build(config.model, (1, 8, 8), 10, seed=99).state_dict()
    save_file(start, tmp_path / "start.safetensors")
    made = check(config, starts=True).model.state_dict()
    assert all(torch.equal(tensor, start[name]) for name, tensor in made.items())
    (tmp_path / "start.safetensors").unlink()
    assert check(config, starts=False).config == config


@pytest.mark.parametrize(
    ("tree", "wanted"),
    [
        ({"workers": {"count": 3, "num_gpus": 1}}, "3 x 1 + 1 x 0 = 3"),
        ({"workers": {"count": 4, "num_gpus": 0.5}, "trainer": {"num_gpus": 1}}, "4 x 0.5 + 1 x 1 = 3"),
        ({"workers": {"count": 2, "num_gpus": 1}}, None),
        ({"workers": {"count": 4, "num_gpus": 0.25}, "trainer": {"num_gpus": 1}}, None),
        ({"workers": {"count": 0}, "trainer": {"count": 3, "num_gpus": 1}}, "0 x 0 + 3 x 1 = 3"),
        ({"workers": {"count": 3, "num_gpus": 1}, "ray": {"address": "auto"}}, None),
    ],
)
def test_more_gpus_than_this_machine_has_are_refused_and_a_cluster_may_grow(
    tree: dict[str, Any], wanted: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    config = from_tree(tree)
    if wanted is None:
        check_resources(config)
        return
    with pytest.raises(UsageError, match=f"= {wanted}, this machine has 2 GPUs".replace("+", r"\+")):
        check_resources(config)


@pytest.mark.parametrize("objective", ["mart", "pgd-at"])
def test_one_class_is_refused_by_name_whatever_the_objective(tmp_path: Path, objective: str) -> None:
    for split in ("train", "test"):
        np.savez(tmp_path / f"one-{split}.npz", images=np.zeros((20, 8, 8), np.uint8), labels=np.zeros(20, int))
    config = small(tmp_path, engine="sync", data={"name": f"npz:{tmp_path / 'one'}"}, objective={"name": objective})
    with pytest.raises(UsageError, match="needs two classes"):
        check(config, starts=True)


def test_steps_that_an_attack_does_not_take_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for steps, name in ((3, "pgd"), (8, "fgsm"), (1, "fgsm")):
        check(small(tmp_path, engine="sync", attack={"name": name, "steps": steps}), starts=True)
    assert "has no effect" not in caplog.text
    check(small(tmp_path, engine="sync", attack={"name": "fgsm", "steps": 7}), starts=True)
    assert "attack.steps = 7 has no effect: attack.name = 'fgsm' makes 1." in caplog.text


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        ({"step_size": 1e-6, "steps": 8}, ["8 steps of 1e-06 move an image by 8e-06 at most, and ε is 0.2"]),
        ({"epsilon": 8 / 255 / 255}, ["Was it divided by 255 twice?"]),
        ({"noise": 1.0}, ["No effect with attack.name = 'pgd': attack.noise = 1.0."]),
        ({}, []),
    ],
)
def test_an_attack_that_does_less_than_its_settings_say_is_told_before_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, attack: dict[str, Any], said: list[str]
) -> None:
    check(small(tmp_path, engine="sync", attack=attack), starts=True)
    warnings = [record.getMessage() for record in caplog.records if "engine" not in record.getMessage()]
    assert len(warnings) == len(said) and all(text in warning for text, warning in zip(said, warnings, strict=True))


def test_attacks_of_the_evaluation_that_need_more_classes_are_refused_before_training(tmp_path: Path) -> None:
    for split in ("train", "test"):
        np.savez(tmp_path / f"{split}.npz", images=IMAGES, labels=LABELS % 3)
    chosen = {"attack": "autoattack", "attacks": ["apgd-ce", "apgd-t"]}
    settings = small(tmp_path, engine="sync", data={"name": f"npz:{tmp_path}"}, evaluation=chosen)
    with pytest.raises(SparringError, match=r"evaluation\.attacks with 'apgd-t' on data of 3 classes: it needs 4"):
        check(settings, starts=True)


UNWILLING = """
from sparring.allocators import Allocator, Budget
import torch
class Unwilling(Allocator):
    classes = ("all",)
    def classify(self, candidates):
        return torch.zeros(len(candidates.labels), dtype=torch.int64)
    def budgets(self, attack):
        return [Budget(0, 0.1)]
"""


def test_an_allocator_of_ones_own_without_steps_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "own.py").write_text(UNWILLING)
    check(small(tmp_path, engine="sync", allocator={"name": f"{tmp_path}/own.py:Unwilling"}), starts=True)
    assert "gives every class of examples a budget of 0 steps" in caplog.text


def test_an_allocator_without_steps_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    none = {"name": "bullettrain", "boundary_steps": 0, "robust_steps": 0, "outlier_steps": 0}
    check(small(tmp_path, engine="sync", allocator={**none, "boundary_steps": 1}), starts=True)
    assert "no example is attacked" not in caplog.text
    check(small(tmp_path, engine="sync", allocator=none), starts=True)
    assert "no example is attacked, and the network will not be robust" in caplog.text


def test_a_resume_on_another_test_set_is_refused(tmp_path: Path) -> None:
    images, labels = np.arange(40 * 64, dtype=np.uint8).reshape(40, 8, 8), np.arange(40) % 10
    for split in ("train", "test"):
        np.savez(tmp_path / f"own-{split}.npz", images=images, labels=labels)
    run = stopped_at(1, tmp_path, engine="sync", data={"name": f"npz:{tmp_path / 'own'}"}, train={"batch_size": 4})
    np.savez(tmp_path / "own-test.npz", images=images, labels=(labels + 1) % 10)
    with pytest.raises(UsageError, match=r"the test set is not the one that .* began with"):
        resume(run.path)
