"""Checkpoints: safetensors weights and a `weights_only` state, in a folder that is written as a whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from sparring.errors import SparringError, file_failure
from sparring.runs import write_atomically, writing

MODEL, AVERAGE, HELPER = "model.safetensors", "ema.safetensors", "helper.safetensors"
FORMAT = 2  # of progress.json and state.pt


class Owner(Protocol):
    """Owns a part of the training state: what is trained next depends on it."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: plain types and tensors."""

    def restore(self, state: dict[str, Any] | None) -> None:
        """Continue from `state()`; None: from the beginning of a run."""


@dataclass(frozen=True)
class Checkpoint:
    """What a run continues from, beside the weights of its networks.

    learner: see `Learner.state`; ledger: which tickets of the open epochs are trained on; counters: what has been
    observed (`RunState`); owners: the state of every `Owner`, by name.
    """

    step: int
    learner: dict[str, Any]
    ledger: dict[str, Any]
    counters: dict[str, Any]
    owners: dict[str, dict[str, Any]] = field(default_factory=dict)


def save(
    folder: Path, networks: Mapping[str, nn.Module], checkpoint: Checkpoint, keep: int, best: bool = False
) -> Path:
    """Write `folder`/step-N and delete all but the last `keep` (and the best). `networks`: see `Learner.networks`.

    Raises:
        SparringError: it cannot be written. What was written of it is deleted, the earlier checkpoints stay.
    """
    target = folder / f"step-{checkpoint.step:09d}"
    partial = folder / f".partial-{os.getpid()}"
    with writing(target):
        folder.mkdir(parents=True, exist_ok=True)
        for abandoned in folder.glob(".partial-*"):
            shutil.rmtree(abandoned)
        partial.mkdir()
        try:
            _write_files(partial, networks, checkpoint)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        _remove(target)
        partial.rename(target)
        _sync(folder)
        if best:
            write_atomically(folder / "best.json", json.dumps(target.name))
        _forget_old(folder, keep)
    return target


def _write_files(partial: Path, networks: Mapping[str, nn.Module], checkpoint: Checkpoint) -> None:
    for name, network in networks.items():
        save_weights(partial, network, f"{name}.safetensors")
    state = {"step": checkpoint.step, "learner": checkpoint.learner, "owners": checkpoint.owners}
    content = BytesIO()  # torch's own writing of files hides why it failed
    torch.save(state, content)
    (partial / "state.pt").write_bytes(content.getbuffer())
    progress = {"format": FORMAT, "ledger": checkpoint.ledger, "counters": checkpoint.counters}
    (partial / "progress.json").write_text(json.dumps(progress))
    for written in partial.iterdir():
        _sync(written)


def forget_newer(folder: Path, step: int) -> None:
    """Delete the checkpoints of steps after `step`."""
    for path in folder.glob("step-*"):
        if int(path.name.removeprefix("step-")) > step:
            _remove(path)


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint."""
    found = sorted(folder.glob("step-*"))
    return found[-1] if found else None


def best(folder: Path) -> Path | None:
    """The checkpoint with the highest held-out robust accuracy, where that was measured.

    Raises:
        SparringError: the note of which it is cannot be read.
    """
    note = folder / "best.json"
    try:
        path = folder / json.loads(note.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise SparringError(f"{note} is cut short or damaged ({error}). Delete it to go on without it.") from error
    return path if path.is_dir() else None


def save_weights(path: Path, model: nn.Module, file: str = MODEL) -> None:
    """Write the weights into the folder `path`, for `load_weights`.

    Raises:
        SparringError: they cannot be written.
    """
    # Cloned: safetensors refuses tensors that share memory, as tied weights do.
    weights = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    try:
        save_file(weights, path / file)
    except (OSError, SafetensorError) as error:
        raise file_failure(error, path / file) from error


def load_weights(path: Path, model: nn.Module, file: str = MODEL) -> None:
    """Load the weights, or their average (`file` AVERAGE), into `model`.

    Raises:
        SparringError: a file is missing or cut short, or the weights are another model's.
    """
    try:
        weights = load_file(path / file)
    except (OSError, SafetensorError) as error:
        raise SparringError(
            f"checkpoint {path}: {file} cannot be read ({error}). Delete it to use an older one."
        ) from error
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise SparringError(
            f"checkpoint {path} is of another model than model.name builds ({first}). Use the run's own configuration."
        ) from error


def load_networks(path: Path, networks: Mapping[str, nn.Module]) -> None:
    """Load what `save` wrote of them; raises as `load_weights` does."""
    for name, network in networks.items():
        load_weights(path, network, f"{name}.safetensors")


def load_state(path: Path) -> Checkpoint:
    """The state beside the weights; nothing in it is executed.

    Raises:
        SparringError: it is missing or damaged, or written by another version of Sparring.
    """
    try:
        state = torch.load(path / "state.pt", weights_only=True, map_location="cpu")
        progress = json.loads((path / "progress.json").read_text())
        found = progress.get("format", 1)
        if found == FORMAT:
            ledger, counters = progress["ledger"], progress["counters"]
            return Checkpoint(state["step"], state["learner"], ledger, counters, state["owners"])
    except Exception as error:
        raise SparringError(
            f"checkpoint {path} is cut short or damaged ({type(error).__name__}: {str(error).split('. ')[0]}). Delete "
            f"it to continue from an older one."
        ) from error
    raise SparringError(
        f"checkpoint {path} has format {found}, this version of Sparring continues from format {FORMAT}. Resume with "
        f"the version that wrote it, or start a new run from its weights (model.checkpoint = '{path}')."
    )


def counters(path: Path) -> dict[str, Any]:
    """What had been observed by the checkpoint (`RunState`); empty where that cannot be read."""
    try:
        found: dict[str, Any] = json.loads((path / "progress.json").read_text())["counters"]
    except (OSError, ValueError, KeyError):
        return {}
    return found


def _forget_old(folder: Path, keep: int) -> None:
    kept = best(folder)
    for path in sorted(folder.glob("step-*"))[:-keep]:
        if path != kept:
            _remove(path)


def _remove(path: Path) -> None:
    """Rename first, so that a process that dies leaves no part of a checkpoint under its name."""
    if path.is_dir():
        doomed = path.with_name(f".partial-{path.name}")
        path.rename(doomed)
        shutil.rmtree(doomed)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
