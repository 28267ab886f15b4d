"""Checkpoints: safetensors weights and a `weights_only` state, in a folder that appears at once or not at all."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from sparring.errors import SparringError
from sparring.runs import write_atomically

MODEL, AVERAGE = "model.safetensors", "ema.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """What a run continues from: optimizer state, counters, the ledger's record of the open epochs, what the engine
    adds, the starts of coming attacks (plain types and tensors) and the scale of an fp16 loss."""

    step: int
    optimizer: dict[str, Any]
    ledger: dict[str, Any]
    counters: dict[str, Any]
    extra: Any = None
    starts: dict[str, Any] | None = None
    scaler: dict[str, Any] | None = None


def save(
    folder: Path,
    model: nn.Module,
    checkpoint: Checkpoint,
    keep: int,
    best: bool = False,
    average: nn.Module | None = None,
) -> Path:
    """Write `folder`/step-N and delete all but the last `keep` (and the best). `average`: the EMA of the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"step-{checkpoint.step:09d}"
    for abandoned in folder.glob(".partial-*"):
        shutil.rmtree(abandoned)
    partial = folder / f".partial-{os.getpid()}"
    partial.mkdir()
    save_weights(partial, model)
    if average is not None:
        save_weights(partial, average, AVERAGE)
    state = {name: getattr(checkpoint, name) for name in ("step", "optimizer", "extra", "starts", "scaler")}
    torch.save(state, partial / "state.pt")
    (partial / "progress.json").write_text(json.dumps({"ledger": checkpoint.ledger, "counters": checkpoint.counters}))
    for file in partial.iterdir():
        _sync(file)
    _remove(target)
    partial.rename(target)
    _sync(folder)
    if best:
        write_atomically(folder / "best.json", json.dumps(target.name))
    _forget_old(folder, keep)
    return target


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
    """The checkpoint with the highest held-out robust accuracy, where that was measured."""
    try:
        path = folder / json.loads((folder / "best.json").read_text())
    except FileNotFoundError:
        return None
    return path if path.is_dir() else None


def save_weights(path: Path, model: nn.Module, file: str = MODEL) -> None:
    """Write the weights into the folder `path`, for `load_weights`."""
    # Cloned: safetensors refuses tensors that share memory, as tied weights do.
    weights = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    save_file(weights, path / file)


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


def load_state(path: Path) -> Checkpoint:
    """The state beside the weights; nothing in it is executed.

    Raises:
        SparringError: it is missing or cut short.
    """
    try:
        state = torch.load(path / "state.pt", weights_only=True, map_location="cpu")
        progress = json.loads((path / "progress.json").read_text())
        ledger, counters = progress["ledger"], progress["counters"]
        extra, starts, scaler = state.get("extra"), state.get("starts"), state.get("scaler")
        return Checkpoint(state["step"], state["optimizer"], ledger, counters, extra, starts, scaler)
    except Exception as error:
        raise SparringError(
            f"checkpoint {path} is cut short or damaged ({type(error).__name__}: {error}). Delete it to continue "
            f"from an older one."
        ) from error


def _forget_old(folder: Path, keep: int) -> None:
    kept = best(folder)
    for path in sorted(folder.glob("step-*"))[:-keep]:
        if path != kept:
            _remove(path)


def _remove(path: Path) -> None:
    """At once, so that a process that dies meanwhile leaves no half of a checkpoint under its name."""
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
