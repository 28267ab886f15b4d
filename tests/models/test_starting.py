"""Weights of another training: taken where they fit, a head of other classes left fresh, all else refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sparring.config import ModelSettings
from sparring.errors import SparringError, UsageError
from sparring.machine.torchvision_import import torchvision
from sparring.models import build
from sparring.models.starting import load_checkpoint

SHAPE = (1, 8, 8)


def network(classes: int = 10, seed: int = 0) -> nn.Module:
    return build(ModelSettings(), SHAPE, classes, seed)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("kind", ["safetensors", "checkpoint", "run", "torch", "wrapped", "parallel"])
def test_weights_come_from_files_and_folders_of_each_kind(tmp_path: Path, kind: str) -> None:
    weights = network(seed=1).state_dict()
    path = tmp_path / {"safetensors": "w.safetensors", "torch": "w.pt", "wrapped": "w.pth", "parallel": "w.pt"}.get(
        kind, ""
    )
    if kind == "run":
        for step in (3, 20):
            folder = tmp_path / "checkpoints" / f"step-{step:09d}"
            folder.mkdir(parents=True)
            save_file(network(seed=2).state_dict() if step == 3 else weights, folder / "model.safetensors")
    elif kind in ("safetensors", "checkpoint"):
        save_file(weights, path if kind == "safetensors" else path / "model.safetensors")
    else:
        parallel = {f"module.{name}": tensor for name, tensor in weights.items()}
        content = {"torch": weights, "wrapped": {"epoch": 3, "state_dict": weights}, "parallel": parallel}[kind]
        torch.save(content, path)
    model = network()
    assert load_checkpoint(path, model, 10) == ()
    assert same(model.state_dict(), weights)


def test_a_head_of_other_classes_stays_fresh_and_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    theirs = network(classes=5, seed=1).state_dict()
    save_file(theirs, tmp_path / "w.safetensors")
    model, fresh = network(), network().state_dict()
    assert load_checkpoint(tmp_path / "w.safetensors", model, 10) == ("9.weight", "9.bias")
    assert "9.weight, 9.bias are not loaded, but initialised at random: 10 classes instead of 5" in caplog.text
    expected = {name: fresh[name] if name.startswith("9.") else theirs[name] for name in fresh}
    assert same(model.state_dict(), expected)


@pytest.mark.parametrize(
    ("change", "reported"),
    [
        ({"1.weight": None}, r"it lacks 1\.weight"),
        ({"11.weight": torch.zeros(3)}, r"the model has no 11\.weight"),
        ({"1.weight": torch.zeros(32, 3, 3, 3)}, r"other shapes 1\.weight \(32, 3, 3, 3\) for \(32, 1, 3, 3\)"),
        ({"9.weight": torch.zeros(5, 64)}, r"other shapes 9\.weight \(5, 64\) for \(10, 128\)"),
        ({"7.weight": torch.zeros(5, 1024), "9.weight": torch.zeros(5, 128)}, r"other shapes 7\.weight .*, 9\.weight"),
    ],
)
def test_other_networks_are_refused_with_the_names(
    tmp_path: Path, change: dict[str, Tensor | None], reported: str
) -> None:
    weights = {name: tensor for name, tensor in {**network().state_dict(), **change}.items() if tensor is not None}
    save_file(weights, tmp_path / "w.safetensors")
    model = network(seed=3)
    with pytest.raises(UsageError, match=f"is of another network than model.name: .*{reported}"):
        load_checkpoint(tmp_path / "w.safetensors", model, 10)
    assert same(model.state_dict(), network(seed=3).state_dict())


def test_two_layers_of_other_sizes_are_no_head_though_both_have_as_many_outputs_as_classes(tmp_path: Path) -> None:
    change = {"7.weight": torch.zeros(5, 1024), "7.bias": torch.zeros(5), "9.weight": torch.zeros(5, 128)}
    save_file({**network(classes=128).state_dict(), **change}, tmp_path / "w.safetensors")
    with pytest.raises(UsageError, match=r"other shapes .*7\.weight .*9\.weight"):
        load_checkpoint(tmp_path / "w.safetensors", network(classes=128), 128)


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("1 + 1",)


def test_weights_that_are_not_finite_are_refused_by_name(tmp_path: Path) -> None:
    weights = network().state_dict()
    weights["9.bias"][3] = torch.nan
    save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(UsageError, match=r"w\.safetensors': 9\.bias has entries that are not finite"):
        load_checkpoint(tmp_path / "w.safetensors", network(), 10)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": Harmful()}, tmp_path / "w.pt")
    with pytest.raises(SparringError, match="Other objects are not loaded, because they may run code"):
        load_checkpoint(tmp_path / "w.pt", network(), 10)


@pytest.mark.parametrize(
    ("name", "content"), [("w.safetensors", b"no weights"), ("w.pt", b""), ("w.pt", b"PK\x03\x04")]
)
def test_a_damaged_file_is_told(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SparringError, match=r"model\.checkpoint = .*(cannot be read|is not a torch file)"):
        load_checkpoint(tmp_path / name, network(), 10)


def test_what_holds_no_tensors_by_name_is_told(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "w.pt")
    with pytest.raises(SparringError, match="has no state dict"):
        load_checkpoint(tmp_path / "w.pt", network(), 10)


def test_a_file_of_torchvisions_own_network_fits_ours(tmp_path: Path) -> None:
    """Normalisation stands before the network here, so that names have a prefix that the file does not know."""
    theirs = torchvision().models.resnet50(num_classes=7).state_dict()
    torch.save(theirs, tmp_path / "w.pt")
    model = build(ModelSettings(name="resnet-50"), (3, 32, 32), 3, 0)
    assert load_checkpoint(tmp_path / "w.pt", model, 3) == ("resnet.fc.weight", "resnet.fc.bias")
    loaded = model.state_dict()
    assert all(torch.equal(loaded[f"resnet.{name}"], theirs[name]) for name in theirs if not name.startswith("fc."))
    assert loaded["normalize.mean"].flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])


@pytest.mark.parametrize("kind", [torch.int8, torch.complex64, torch.float8_e4m3fn])
def test_weights_without_their_scale_are_refused(tmp_path: Path, kind: torch.dtype) -> None:
    weights = network().state_dict()
    torch.save({**weights, "9.bias": weights["9.bias"].to(kind)}, tmp_path / "w.pt")
    with pytest.raises(UsageError, match=r"w\.pt': 9\.bias: torch\..* is no type of whole weights"):
        load_checkpoint(tmp_path / "w.pt", network(), 10)


@pytest.mark.parametrize(("mean", "std", "named"), [(0.1, 0.25, "mean"), (0.5, 1.0, "std"), (0.5, 0.25, None)])
def test_weights_behind_another_normalisation_are_refused(
    tmp_path: Path, mean: float, std: float, named: str | None
) -> None:
    """Its mean and std would take the place of the setting's."""
    settings, shape = ModelSettings(name="mnist-16-32-100"), (1, 28, 28)
    save_file(build(settings, shape, 10, 1, normalize=(0.5, 0.25)).state_dict(), tmp_path / "w.safetensors")
    model = build(settings, shape, 10, 0, normalize=(mean, std))
    if named is None:
        assert load_checkpoint(tmp_path / "w.safetensors", model, 10) == ()
        return
    theirs, ours = {"mean": ("0.5", "0.1"), "std": ("0.25", "1")}[named]
    with pytest.raises(UsageError, match=rf"by a {named} of {theirs}, and this one by {ours}\. Set data\.{named}"):
        load_checkpoint(tmp_path / "w.safetensors", model, 10)


def test_a_file_of_two_networks_is_refused(tmp_path: Path) -> None:
    """A student and its teacher; an optimizer's state beside the weights is none."""
    torch.save({"net": network(seed=1).state_dict(), "model": network(seed=2).state_dict()}, tmp_path / "two.pt")
    with pytest.raises(
        UsageError, match=r"two\.pt has several networks, 'model' and 'net'\. Save the state dict of one"
    ):
        load_checkpoint(tmp_path / "two.pt", network(), 10)
    torch.save({"net": network(seed=1).state_dict(), "model": {"name": "cnn"}}, tmp_path / "one.pt")
    load_checkpoint(tmp_path / "one.pt", model := network(), 10)
    assert same(model.state_dict(), network(seed=1).state_dict())
