"""A checkpoint is there whole or not at all, and what is damaged says so."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sparring.config import new_run
from sparring.errors import SparringError
from sparring.trainer import checkpoints
from sparring.trainer.checkpoints import Checkpoint
from sparring.trainer.experiment import build_experiment
from sparring.trainer.session import Session
from tests.support.disk import files_of_at_most
from tests.support.runs import small

LEDGER = {"epoch": 3, "done": {"3": [0, 4, 2]}, "set_aside": {"1": [7]}}
COUNTERS = {"phase": "training", "staleness": {"0": 3, "2": 1}, "loss": 0.1 + 0.2}
OWNERS: dict[str, dict[str, Any]] = {
    "heldout": {"best": -1.0},
    "starts": {"delta": torch.arange(3.0)},
    "pruning": {"kept": None},
}


def network(width: int = 5, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Linear(width, 2))


def trained(model: nn.Module) -> torch.optim.Optimizer:
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.rand(8, 4)).square().sum().backward()
        optimizer.step()
    return optimizer


def write(folder: Path, step: int, model: nn.Module | None = None, keep: int = 2, best: bool = False) -> Path:
    networks = {"model": model or network()}
    return checkpoints.save(folder, networks, Checkpoint(step, {}, LEDGER, COUNTERS), keep, best)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def same(one: Any, two: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    return bool(one == two)


def test_everything_comes_back_as_it_was(tmp_path: Path) -> None:
    model = network()
    optimizer = trained(model)
    state = {"optimizer": optimizer.state_dict(), "robust_share": 0.25}
    networks = {"model": model, "ema": network(seed=2)}
    path = checkpoints.save(tmp_path, networks, Checkpoint(12, state, LEDGER, COUNTERS, OWNERS), keep=2)
    files = ["digests.json", "ema.safetensors", "model.safetensors", "progress.json", "state.pt"]
    assert path == checkpoints.latest(tmp_path) and names(path) == files
    others = {"model": network(seed=1), "ema": network(seed=1)}
    checkpoints.load_networks(path, others)
    assert all(same(dict(others[name].state_dict()), dict(each.state_dict())) for name, each in networks.items())
    back = checkpoints.load_state(path)
    assert (back.step, back.ledger, back.counters) == (12, LEDGER, COUNTERS)
    assert same(back.learner, state) and same(back.owners, OWNERS)


def test_tied_weights_can_be_written(tmp_path: Path) -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    model = nn.Sequential(first, second)
    path = write(tmp_path, 1, model)
    before = first.weight.detach().clone()
    nn.init.zeros_(first.weight)
    checkpoints.load_weights(path, model)
    assert torch.equal(second.weight, before)


def test_the_last_so_many_and_the_best_are_kept(tmp_path: Path) -> None:
    assert checkpoints.latest(tmp_path) is None and checkpoints.best(tmp_path) is None
    for step in (1, 2, 3, 10, 200):
        write(tmp_path, step, keep=2, best=step == 2)
    assert names(tmp_path) == ["best.json", "step-000000002", "step-000000010", "step-000000200"]
    best, latest = checkpoints.best(tmp_path), checkpoints.latest(tmp_path)
    assert best is not None and best.name == "step-000000002"
    assert latest is not None and latest.name == "step-000000200"
    write(tmp_path, 300, keep=2, best=True)
    assert names(tmp_path) == ["best.json", "step-000000200", "step-000000300"]


def test_a_step_that_is_written_again_is_replaced(tmp_path: Path) -> None:
    write(tmp_path, 5, network(seed=0))
    path = write(tmp_path, 5, network(seed=1))
    model = network(seed=2)
    checkpoints.load_weights(path, model)
    assert same(dict(model.state_dict()), dict(network(seed=1).state_dict())) and names(tmp_path) == [path.name]


def test_what_a_killed_process_left_is_no_checkpoint_and_is_cleared_away(tmp_path: Path) -> None:
    partial = tmp_path / ".partial-4711"
    partial.mkdir(parents=True)
    (partial / "model.safetensors").write_bytes(b"half")
    assert checkpoints.latest(tmp_path) is None
    write(tmp_path, 1)
    assert names(tmp_path) == ["step-000000001"]


def killed_before_the_renaming(folder: Path, step: int) -> None:
    """Leave a checkpoint as a process does that is killed when all of it is written."""
    path = write(folder, step)
    path.rename(folder / f".partial-4711-{path.name}")


def test_what_a_killed_process_had_written_whole_is_recovered(tmp_path: Path) -> None:
    write(tmp_path, 1)
    killed_before_the_renaming(tmp_path, 7)
    recovered = checkpoints.recover(tmp_path)
    assert recovered == checkpoints.latest(tmp_path) == tmp_path / "step-000000007"
    assert checkpoints.load_state(recovered).step == 7 and checkpoints.recover(tmp_path) is None


@pytest.mark.parametrize("file", ["digests.json", "model.safetensors", "state.pt"])
def test_what_a_killed_process_had_written_in_part_is_not(tmp_path: Path, file: str) -> None:
    write(tmp_path, 1)
    killed_before_the_renaming(tmp_path, 7)
    (tmp_path / ".partial-4711-step-000000007" / file).unlink()
    assert checkpoints.recover(tmp_path) is None and checkpoints.latest(tmp_path) == tmp_path / "step-000000001"


def test_a_checkpoint_that_is_being_deleted_is_not_recovered(tmp_path: Path) -> None:
    path = write(tmp_path, 7)
    path.rename(tmp_path / f".deleted-{path.name}")
    assert checkpoints.recover(tmp_path) is None
    write(tmp_path, 1)
    assert names(tmp_path) == ["step-000000001"]


@pytest.mark.parametrize("file", ["model.safetensors", "state.pt", "progress.json"])
def test_a_bit_that_flips_is_noticed_and_the_checkpoint_before_is_used(
    tmp_path: Path, file: str, caplog: pytest.LogCaptureFixture
) -> None:
    before, newest = write(tmp_path, 1), write(tmp_path, 2)
    content = bytearray((newest / file).read_bytes())
    content[len(content) // 2] ^= 4
    (newest / file).write_bytes(content)
    assert checkpoints.latest(tmp_path) == before
    assert f"{newest} is damaged: {file} changed after" in caplog.text
    content = bytearray((before / file).read_bytes())
    (before / file).write_bytes(content[:-1])
    with pytest.raises(SparringError, match=rf"step-000000002 is damaged \({file} .* no other"):
        checkpoints.latest(tmp_path)


def test_one_that_the_run_replaces_while_it_is_looked_at_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A reader beside a run that keeps one checkpoint: between its list and its look a newer one has come."""
    write(tmp_path, 2, keep=1)
    looked: list[Path] = []

    def damage(path: Path) -> str:
        if not looked:
            write(tmp_path, 4, keep=1)
        looked.append(path)
        return found(path)

    found = checkpoints.damage
    monkeypatch.setattr(checkpoints, "damage", damage)
    assert checkpoints.latest(tmp_path) == looked[-1] and [path.name[-1] for path in looked] == ["2", "4"]
    assert caplog.text == ""


@pytest.mark.parametrize("content", [None, "{}", "["])
def test_without_its_digests_a_checkpoint_is_damaged(tmp_path: Path, content: str | None) -> None:
    before, newest = write(tmp_path, 1), write(tmp_path, 2)
    (newest / "digests.json").unlink()
    if content is not None:
        (newest / "digests.json").write_text(content)
    assert checkpoints.latest(tmp_path) == before
    assert checkpoints.set_damaged_aside(tmp_path, before) == [newest.name]
    write(tmp_path, 2)
    assert checkpoints.set_damaged_aside(tmp_path, before) == [newest.name], "the same step a second time"
    write(tmp_path, 3, keep=1)
    assert checkpoints.latest(tmp_path) == tmp_path / "step-000000003"


@pytest.mark.parametrize(
    ("put", "said"),
    [
        (lambda path: path.write_text("x"), "is damaged: it is no folder"),
        (lambda path: path.symlink_to("gone"), "is damaged: it is a link that leads to no folder"),
    ],
)
def test_what_is_no_folder_under_a_checkpoints_name_is_passed_over(
    tmp_path: Path, put: Callable[[Path], Any], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    before, stray = write(tmp_path, 1), tmp_path / "step-000000002"
    put(stray)
    assert checkpoints.latest(tmp_path) == before and f"{stray} {said}; the one before is used" in caplog.text
    for _ in range(2):
        assert checkpoints.set_damaged_aside(tmp_path, before) == [stray.name]
        put(stray)
    assert write(tmp_path, 2) == checkpoints.latest(tmp_path), "the run's own takes its place"
    put(tmp_path / "step-000000003")
    checkpoints.forget_newer(tmp_path, 2)
    before.rename(tmp_path / "elsewhere")
    before.symlink_to(tmp_path / "elsewhere")
    write(tmp_path, 3)
    assert names(tmp_path) == [".damaged-step-000000002", "elsewhere", "step-000000002", "step-000000003"]
    assert (tmp_path / "elsewhere" / "state.pt").is_file(), "what a link leads to is not deleted"


@pytest.mark.parametrize("has_digests", [True, False])
@pytest.mark.parametrize("name", ["step-000000099", "step-99", "step-000000002"])
def test_a_copy_under_another_steps_name_is_passed_over(
    tmp_path: Path, name: str, has_digests: bool, caplog: pytest.LogCaptureFixture
) -> None:
    before = write(tmp_path, 1)
    if not has_digests:  # as earlier versions wrote them
        progress = json.loads((before / "progress.json").read_text())
        (before / "progress.json").write_text(json.dumps({**progress, "digests": False}))
        (before / "digests.json").unlink()
    copy = Path(shutil.copytree(before, tmp_path / name))
    assert checkpoints.latest(tmp_path) == before
    assert f"{copy} is damaged: it is that of step 1, under another name; the one before is used" in caplog.text
    assert checkpoints.set_damaged_aside(tmp_path, before) == [name] and checkpoints.latest(tmp_path) == before


def test_what_stands_under_a_later_steps_name_does_not_push_out_the_runs_own(tmp_path: Path) -> None:
    shutil.copytree(write(tmp_path, 1), tmp_path / "step-000000099")
    for step in (2, 3):
        newest = write(tmp_path, step, keep=1)
    assert names(tmp_path) == ["step-000000003", "step-000000099"] and checkpoints.latest(tmp_path) == newest


def test_a_copy_beside_the_checkpoints_is_none(tmp_path: Path) -> None:
    path = write(tmp_path, 9)
    path.rename(path.with_name(f"{path.name}.bak"))
    assert checkpoints.latest(tmp_path) is None
    write(tmp_path, 1)
    checkpoints.forget_newer(tmp_path, 0)
    assert names(tmp_path) == ["step-000000009.bak"]


def cut(name: str, size: int) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        file = path / name
        file.write_bytes(file.read_bytes()[:size])

    return damage


def removed(name: str) -> Callable[[Path], None]:
    return lambda path: (path / name).unlink()


@pytest.mark.parametrize(
    "damage",
    [removed("model.safetensors"), *(cut("model.safetensors", size) for size in (0, 4, 100, -1))],
)
def test_damaged_weights_are_told_with_the_remedy(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path, model = write(tmp_path, 1), network(seed=1)
    damage(path)
    with pytest.raises(SparringError, match=rf"{path}: model\.safetensors cannot be read .*Delete it"):
        checkpoints.load_weights(path, model)
    assert same(dict(model.state_dict()), dict(network(seed=1).state_dict()))


@pytest.mark.parametrize(
    "damage",
    [
        removed("state.pt"),
        removed("progress.json"),
        *(cut("state.pt", size) for size in (0, 4, 100, -1)),
        *(cut("progress.json", size) for size in (0, 4, 20)),
    ],
)
def test_a_damaged_state_is_told_with_the_remedy(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = write(tmp_path, 1)
    damage(path)
    with pytest.raises(SparringError, match=f"{path} is cut short or damaged .*Delete it to continue from an older"):
        checkpoints.load_state(path)


@pytest.mark.parametrize("found", [None, 1, 3])
def test_a_checkpoint_of_another_format_is_refused_with_the_remedy(tmp_path: Path, found: int | None) -> None:
    path = write(tmp_path, 1)
    progress = json.loads((path / "progress.json").read_text())
    if found is None:
        del progress["format"]
    (path / "progress.json").write_text(json.dumps(progress if found is None else {**progress, "format": found}))
    with pytest.raises(SparringError, match=rf"has format {found or 1}, .* continues from format 2\. Resume with"):
        checkpoints.load_state(path)


class Payload:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("write_state", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, 2))])
def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path, write_state: Callable[[Any, Path], Any]) -> None:
    path, mark = write(tmp_path / "checkpoints", 1), tmp_path / "executed"
    write_state({"step": 1, "learner": Payload(mark), "owners": {}}, path / "state.pt")
    with pytest.raises(SparringError, match="is cut short or damaged"):
        checkpoints.load_state(path)
    assert not mark.exists()


def test_the_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, 1, network(width=6))
    with pytest.raises(SparringError, match=r"is of another model than model\.name builds \(size mismatch"):
        checkpoints.load_weights(path, network(width=5))


def test_the_note_of_the_best_is_written_at_once(tmp_path: Path) -> None:
    write(tmp_path, 1, best=True)
    assert json.loads((tmp_path / "best.json").read_text()) == "step-000000001"
    assert stat.S_IMODE((tmp_path / "best.json").stat().st_mode) == 0o644


def test_a_run_tells_when_it_was_saved_last_after_a_resume_too(tmp_path: Path) -> None:
    config = small(tmp_path, engine="sync")
    experiment, run = build_experiment(config), new_run(config)
    first = Session(experiment, run, torch.device("cpu"))
    assert first.restore() is None and first.state.checkpointed is None
    first.save()
    path = checkpoints.latest(run.checkpoints)
    assert path is not None and first.state.checkpointed == pytest.approx(path.stat().st_mtime, abs=5)
    os.utime(path, (1000.0, 1000.0))
    second = Session(experiment, run, torch.device("cpu"))
    assert second.restore() is not None and second.state.checkpointed == 1000.0


@pytest.mark.parametrize("size", [100, 20_000, 120_000])  # bytes: within the weights, the optimizer's state, or both
def test_a_full_disk_leaves_the_earlier_checkpoints_and_no_part_of_a_new_one(tmp_path: Path, size: int) -> None:
    network = nn.Linear(100, 200)
    state = {"momentum": torch.zeros(50_000)}
    checkpoints.save(tmp_path, {"model": network}, Checkpoint(1, state, {}, {}), keep=2)
    full = r"step-000000002|model\.safetensors"
    with files_of_at_most(size), pytest.raises(SparringError, match=rf"({full}): File too large\. Free space there"):
        checkpoints.save(tmp_path, {"model": network}, Checkpoint(2, state, {}, {}), keep=2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001"]
    assert torch.equal(checkpoints.load_state(tmp_path / "step-000000001").learner["momentum"], state["momentum"])


def test_a_note_of_the_best_that_is_cut_short_is_named(tmp_path: Path) -> None:
    (tmp_path / "best.json").write_text('"step-0')
    with pytest.raises(SparringError, match=r"best\.json is cut short or damaged .* Delete it"):
        checkpoints.best(tmp_path)


def test_the_planned_checkpoint_of_one_that_is_kept_is_kept_too(tmp_path: Path) -> None:
    """Those of stops do not push out the one to which a rollback returns."""
    for step, planned in ((10, 10), (12, 10), (13, 10), (15, None)):
        found = Checkpoint(step, {}, LEDGER, COUNTERS, planned=planned)
        path = checkpoints.save(tmp_path, {"model": network()}, found, keep=2)
        assert checkpoints.load_state(path).planned == planned
    assert [checkpoints.step_of(path) for path in checkpoints.steps_in(tmp_path)] == [10, 13, 15]
    write(tmp_path, 20, keep=1)
    assert [checkpoints.step_of(path) for path in checkpoints.steps_in(tmp_path)] == [20]


def test_the_checkpoint_of_an_older_version_is_planned(tmp_path: Path) -> None:
    path = write(tmp_path, 7)
    progress = json.loads((path / "progress.json").read_text())
    del progress["planned"]
    (path / "progress.json").write_text(json.dumps(progress))
    assert checkpoints.load_state(path).planned == 7 and checkpoints.planned(path) == path
    (path / "progress.json").write_text("[]")
    assert checkpoints.planned(path) is None
