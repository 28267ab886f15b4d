"""Checkpoints: safetensors weights and a `weights_only` state, in a folder that is written as a whole or not at all."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import os
import shutil
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sparring.errors import SparringError, file_failure
from sparring.runs import write_atomically, writing

MODEL, AVERAGE, HELPER = "model.safetensors", "ema.safetensors", "helper.safetensors"
FORMAT = 2  # of progress.json and state.pt
DIGESTS = "digests.json"  # SHA-256 of every other file, written last: a folder that has it is whole
PARTIAL, DELETED = ".partial-", ".deleted-"
_WRITING = threading.Lock()  # one after the other: whoever writes deletes what was abandoned

log = logging.getLogger(__name__)


class HasWeights(Protocol):
    """A network, or a copy of its weights."""

    def state_dict(self) -> Mapping[str, Tensor]: ...


class Copied:
    """The weights of a network as they were, on the CPU."""

    def __init__(self, network: HasWeights) -> None:
        self._weights = {name: _on_cpu(tensor) for name, tensor in network.state_dict().items()}

    def state_dict(self) -> Mapping[str, Tensor]:
        return self._weights


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
    observed (`RunState`); owners: the state of every `Owner`, by name. planned: the step of the last checkpoint that an
    undisturbed run writes too, to which a rollback returns (None: there was none); that may be this one.
    """

    step: int
    learner: dict[str, Any]
    ledger: dict[str, Any]
    counters: dict[str, Any]
    owners: dict[str, dict[str, Any]] = field(default_factory=dict)
    planned: int | None = None


def copied(checkpoint: Checkpoint) -> Checkpoint:
    """The same, which does not change with the learner, its tensors on the CPU."""
    found: Checkpoint = replace(
        checkpoint,
        **{each.name: _on_cpu(getattr(checkpoint, each.name)) for each in fields(checkpoint) if each.name != "step"},
    )
    return found


def _on_cpu(value: Any) -> Any:
    """A deep copy of plain types and tensors."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {name: _on_cpu(inner) for name, inner in value.items()}
    return [_on_cpu(inner) for inner in value] if isinstance(value, list) else copy.deepcopy(value)


def save(
    folder: Path, networks: Mapping[str, HasWeights], checkpoint: Checkpoint, keep: int, best: bool = False
) -> Path:
    """Write `folder`/step-N and delete all but the last `keep`, the planned ones of these, and the best.

    `networks`: see `Learner.networks`.

    Raises:
        SparringError: it cannot be written. What was written of it is deleted, the earlier checkpoints stay.
    """
    with _WRITING:
        return _saved(folder, networks, checkpoint, keep, best)


def _saved(folder: Path, networks: Mapping[str, HasWeights], checkpoint: Checkpoint, keep: int, best: bool) -> Path:
    target = at_step(folder, checkpoint.step)
    partial = folder / f"{PARTIAL}{os.getpid()}-{target.name}"
    with writing(target):
        folder.mkdir(parents=True, exist_ok=True)
        for abandoned in (*folder.glob(f"{PARTIAL}*"), *folder.glob(f"{DELETED}*")):
            _delete(abandoned)
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
        _forget_old(folder, keep, checkpoint.step)
    return target


def _write_files(partial: Path, networks: Mapping[str, HasWeights], checkpoint: Checkpoint) -> None:
    for name, network in networks.items():
        save_weights(partial, network, f"{name}.safetensors")
    state = {"step": checkpoint.step, "learner": checkpoint.learner, "owners": checkpoint.owners}
    content = BytesIO()  # torch's own writing of files hides why it failed
    torch.save(state, content)
    (partial / "state.pt").write_bytes(content.getbuffer())
    progress: dict[str, Any] = {"format": FORMAT, "digests": True, "planned": checkpoint.planned}
    progress |= {"ledger": checkpoint.ledger, "counters": checkpoint.counters}
    (partial / "progress.json").write_text(json.dumps(progress))
    for written in partial.iterdir():
        _sync(written)
    write_atomically(partial / DIGESTS, json.dumps(_digests(partial)), durable=True)


def _digests(path: Path) -> dict[str, str]:
    """SHA-256 of the files of a checkpoint, by name."""
    digests = {}
    for each in sorted(path.iterdir()):
        if each.is_file() and each.name != DIGESTS and not each.name.startswith("."):
            digests[each.name] = _digest(each)
    return digests


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def steps_in(folder: Path) -> list[Path]:
    """The checkpoints, the oldest first."""
    return sorted((path for path in folder.glob("step-*") if _is_named(path)), key=lambda path: (step_of(path), path))


def set_damaged_aside(folder: Path, used: Path) -> list[str]:
    """Rename the checkpoints that are newer than the one `used`, since they are damaged; returns their names."""
    newer = [path for path in steps_in(folder) if (step_of(path), path) > (step_of(used), used)]
    for path in newer:
        aside = path.with_name(f".damaged-{path.name}")
        _delete(aside)  # the same step, damaged once before
        path.rename(aside)
    return [path.name for path in newer]


def forget_newer(folder: Path, step: int) -> None:
    """Delete the checkpoints of steps after `step`."""
    for path in steps_in(folder):
        if step_of(path) > step:
            _remove(path)


def _is_named(path: Path) -> bool:
    return path.name.startswith("step-") and path.name.removeprefix("step-").isdecimal()


def at_step(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step is."""
    return folder / f"step-{step:09d}"


def planned(path: Path) -> Path | None:
    """The planned checkpoint of one (see `Checkpoint`), itself where an older version wrote it; None: there is none, or
    that cannot be read."""
    try:
        step = json.loads((path / "progress.json").read_text()).get("planned", step_of(path))
        return None if step is None else at_step(path.parent, step)
    except (OSError, ValueError, AttributeError, TypeError):
        return None


def step_of(path: Path) -> int:
    """The step at which a checkpoint of `steps_in` was written, by its name."""
    return int(path.name.removeprefix("step-"))


def latest(folder: Path) -> Path | None:
    """The newest checkpoint that is as it was written; damaged ones are warned of and passed over.

    Raises:
        SparringError: there are checkpoints, and all are damaged.
    """
    found = steps_in(folder)[::-1]
    for path in found:
        if not (reason := damage(path)):
            return path
        if not os.path.lexists(path):
            return latest(folder)  # the run trains, and has a newer one now
        log.warning("checkpoint %s is damaged: %s; the one before is used", path, reason)
    if not found:
        return None
    raise SparringError(
        f"checkpoint {found[0]} is damaged ({damage(found[0])}), and there is no other that is not. Put back a copy of "
        f"it. Delete it and all others to begin the run again."
    )


def damage(path: Path) -> str:
    """What is not as it was written, by the digests and its name; empty: nothing."""
    if not path.is_dir():
        return "it is a link that leads to no folder" if path.is_symlink() else "it is no folder"
    try:
        expected, found = json.loads((path / DIGESTS).read_text()), _digests(path)
    except FileNotFoundError:
        return f"{DIGESTS} is missing" if _has_digests(path) else _of_another_step(path)
    except (OSError, ValueError) as error:
        return f"it cannot be read ({error})"
    wrong = sorted(name for name in {*expected, *found} if found.get(name) != expected.get(name))
    return f"{', '.join(wrong)} changed after the checkpoint was written" if wrong else _of_another_step(path)


def _of_another_step(path: Path) -> str:
    """Whether it lies under another step's name, as a copy may; empty: no, or its state cannot be read."""
    if not _is_named(path):
        return ""
    try:  # mapped, since only a number of it is needed
        step = torch.load(path / "state.pt", weights_only=True, map_location="cpu", mmap=True)["step"]
    except Exception:  # `load_state` tells
        return ""
    return "" if step == step_of(path) else f"it is that of step {step}, under another name"


def _has_digests(path: Path) -> bool:
    """Whether it was written with digests, as all are but those of earlier versions."""
    try:
        return bool(json.loads((path / "progress.json").read_text()).get("digests"))
    except (OSError, ValueError, AttributeError):
        return True


def recover(folder: Path) -> Path | None:
    """Make a checkpoint of what a process that was killed had written, where that is whole and the newest."""
    for partial in folder.glob(f"{PARTIAL}*-step-*"):
        target = folder / partial.name[partial.name.index("step-") :]
        newest = max(map(step_of, steps_in(folder)), default=-1)
        if (partial / DIGESTS).is_file() and not damage(partial) and newest < step_of(target):
            partial.rename(target)
            _sync(folder)
            return target
    return None


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


def save_weights(path: Path, model: HasWeights, file: str = MODEL) -> None:
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


def save_initial(path: Path, model: HasWeights, file: str = MODEL) -> None:
    """Write weights that a run starts from into its folder `path`, as a whole or not at all; their digest comes first.

    Raises:
        SparringError: they cannot be written.
    """
    with writing(path / file):
        path.mkdir(exist_ok=True)
        partial = path / f".{file}"
        save_weights(path, model, partial.name)
        _sync(partial)
        noted = {**_noted(path), file: _digest(partial)}
        write_atomically(path / DIGESTS, json.dumps(noted), durable=True)
        partial.rename(path / file)
        _sync(path)


def require_initial(path: Path) -> None:
    """Refuse weights of `save_initial` that have changed since; those of older versions have no digests.

    Raises:
        SparringError: they have.
    """
    for name, digest in _noted(path).items():
        if (path / name).is_file() and _digest(path / name) != digest:
            raise SparringError(
                f"{path / name} changed after the run's start, by {DIGESTS} beside it. Put back a copy of it, or start "
                f"a new run."
            )


def _noted(path: Path) -> dict[str, str]:
    try:
        return dict(json.loads((path / DIGESTS).read_text()))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise SparringError(
            f"{path / DIGESTS} is cut short or damaged ({error}). Put back a copy of it, or start a new run."
        ) from error


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
            step, learner, owners = state["step"], state["learner"], state["owners"]
            return Checkpoint(step, learner, ledger, counters, owners, progress.get("planned", step))
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


def _forget_old(folder: Path, keep: int, step: int) -> None:
    """Keep the last that were written up to `step`: what stands under a later one's name does not count."""
    found = [path for path in steps_in(folder) if step_of(path) <= step]
    kept = {best(folder), *map(planned, found[-keep:])}
    for path in found[:-keep]:
        if path not in kept:
            _remove(path)


def _remove(path: Path) -> None:
    """Rename first, so that a process that dies leaves no part of a checkpoint under its name."""
    if os.path.lexists(path):
        doomed = path.with_name(f"{DELETED}{path.name}")
        path.rename(doomed)
        _delete(doomed)


def _delete(path: Path) -> None:
    """A checkpoint's folder, or what stood under such a name: a file, or a link, whose folder stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
