"""A run on the examples of a folder of sources: runs and files of weights, and what cannot be one is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from sparring.commands.judging import How
from sparring.commands.train import train
from sparring.commands.transferring import transfer_from, transfer_runs
from sparring.errors import UsageError
from sparring.evaluation import tickets
from sparring.runs import Run, open_run
from tests.support.runs import small

CHEAP = {"evaluation.samples": "30", "evaluation.steps": "3", "evaluation.restarts": "2", "evaluation.batch_size": "15"}
pytestmark = pytest.mark.xdist_group("transferring")  # one process trains the networks


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three runs of the digits, of different seeds, and a file of the third one's weights."""
    root = tmp_path_factory.mktemp("runs")
    for seed in range(3):
        name = {"run": {"root": str(root), "name": f"seed-{seed}"}, "engine": "sync"}
        train(small(root, **name, train={"seed": seed, "max_steps": 40, "epochs": 2}))
    shutil.copy(next((root / "seed-2/checkpoints").glob("step-*")) / "model.safetensors", root / "third.safetensors")
    return root


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "runs"))


def run(folder: Path, seed: int = 0) -> Run:
    return open_run(folder / f"seed-{seed}")


def test_every_run_and_file_of_weights_is_a_source_and_the_worst_case_counts(folder: Path) -> None:
    found = transfer_from(run(folder), folder, CHEAP)
    assert found["sources"] == ["seed-1", "seed-2", "third.safetensors"] and found["samples"] == 30
    assert found["accuracy"][1] == found["accuracy"][2], "the same weights"
    assert found["worst"] <= min(found["accuracy"]) <= found["clean"] and found["passed_over"] == {}
    matrix = transfer_runs([run(folder, seed) for seed in range(3)], CHEAP)
    assert found["accuracy"][:2] == [matrix["accuracy"][1][0], matrix["accuracy"][2][0]]
    assert found["itself"] == matrix["accuracy"][0][0] and found["clean"] == matrix["clean"][0]
    assert json.loads((folder / "seed-0/transfer.json").read_text())["worst"] == found["worst"]


def test_what_cannot_be_a_source_is_named_with_the_reason(folder: Path) -> None:
    (folder / "no-run").mkdir()
    (folder / "notes.txt").write_text("mine")
    torch.save({"layer.weight": torch.zeros(3, 3)}, folder / "other.pt")
    shutil.rmtree(folder / "seed-1/checkpoints")
    found = transfer_from(run(folder), folder, CHEAP)
    assert found["sources"] == ["seed-2", "third.safetensors"]
    assert set(found["passed_over"]) == {"no-run", "other.pt", "seed-1"}
    assert "checkpoint" in found["passed_over"]["seed-1"]


def test_a_folder_without_a_source_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for place, why in ((tmp_path / "empty", "no run and no file of weights"), (tmp_path / "none", "it is no folder")):
        with pytest.raises(UsageError, match=why):
            transfer_from(run(folder), place, CHEAP)


@pytest.mark.parametrize("kind", ["folder", "matrix"])
def test_a_transfer_that_dies_goes_on_where_it_was(folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def transferred(how: How) -> dict[str, Any]:
        if kind == "folder":
            return transfer_from(run(folder), folder, CHEAP, how=how)
        return transfer_runs([run(folder), run(folder, 1)], CHEAP, how=how)

    with pytest.raises(UsageError, match=r"--resume: .* holds no verdicts"):
        transferred(How(resume=True))
    done, work = [0], tickets.InProcess.done

    def counted(self: Any, *arguments: Any) -> Any:
        done[0] += 1
        if done[0] == 3:
            raise KeyboardInterrupt
        return work(self, *arguments)

    monkeypatch.setattr(tickets.InProcess, "done", counted)
    with pytest.raises(KeyboardInterrupt):
        transferred(How())
    after = transferred(How(resume=True))
    whole = done[0] - 1
    assert whole == (8 if kind == "folder" else 4), "two batches of each source, each once"
    again = transferred(How(again=True))
    assert done[0] - 1 == 2 * whole
    assert {name: value for name, value in again.items() if name != "seconds"} == after


def test_a_source_that_is_added_is_attacked_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "third.safetensors").rename(folder.parent / "third.safetensors")
    before = transfer_from(run(folder), folder, CHEAP)
    (folder.parent / "third.safetensors").rename(folder / "third.safetensors")
    shutil.copy(next((folder / "seed-1/checkpoints").glob("step-*")) / "model.safetensors", folder / "new.safetensors")
    done, work = [0], tickets.InProcess.done

    def counted(self: Any, *arguments: Any) -> Any:
        done[0] += 1
        return work(self, *arguments)

    monkeypatch.setattr(tickets.InProcess, "done", counted)
    found = transfer_from(run(folder), folder, CHEAP)
    assert done[0] <= 4 and found["accuracy"][1:3] == before["accuracy"][:2]
    assert len(found["sources"]) == 4
