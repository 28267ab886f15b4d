"""Exported models answer as the run's own, in a process that has never heard of this package."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from sparring.commands.evaluate import open_trained
from sparring.commands.export import export_run, fraction, model_info
from sparring.commands.train import train
from sparring.config import config_of, overridden
from sparring.errors import SparringError, UsageError
from sparring.evaluation.autoattack import describe
from sparring.models import build
from sparring.runs import Run, open_run
from tests.support.disk import files_of_at_most
from tests.support.runs import small

ALONE = """
import sys
sys.modules["sparring"] = None  # whoever imports it fails
import numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
for count in (1, 3, 17):
    images = numpy.load(sys.argv[2])[:count]
    (logits,) = session.run(["logits"], {"images": images})
    expected = numpy.load(sys.argv[3])[:count]
    assert logits.shape == expected.shape and abs(logits - expected).max() < 1e-4, abs(logits - expected).max()
assert "torch" not in sys.modules
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(small(tmp_path_factory.mktemp("runs"), engine="sync", train={"max_steps": 4})).run


def answers(run: Run) -> tuple[torch.Tensor, torch.Tensor]:
    made = open_trained(run, {})
    x = made.test.images(torch.arange(17)).float() / 255
    with torch.no_grad():
        logits: torch.Tensor = made.model.eval()(x)
    return x, logits


def test_onnx_answers_the_same_for_any_batch_without_this_package(run: Run, tmp_path: Path) -> None:
    for needed in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(needed)
    x, logits = answers(run)
    np.save(tmp_path / "x.npy", x.numpy())
    np.save(tmp_path / "logits.npy", logits.numpy())
    out = tmp_path / "model.onnx"
    assert export_run(run, "onnx", out) == [out]
    words = [sys.executable, "-c", ALONE, *map(str, (out, tmp_path / "x.npy", tmp_path / "logits.npy"))]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_safetensors_holds_the_weights_and_what_builds_the_model_again(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "model.safetensors"
    export_run(run, "safetensors", out)
    (out.parent / "plain").touch()
    assert out.stat().st_mode == (out.parent / "plain").stat().st_mode
    with safe_open(out, "pt") as file:
        reported, weights = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert (reported["model"], reported["epsilon"], reported["norm"], reported["classes"]) == (
        "digits-cnn",
        "0.2",
        "linf",
        "10",
    )
    model = build(config_of(run).model, tuple(json.loads(reported["shape"])), int(reported["classes"]), seed=9)
    model.load_state_dict(weights)
    x, logits = answers(run)
    with torch.no_grad():
        assert torch.equal(model.eval()(x), logits)


def test_robustbench_gets_a_state_dict_and_its_own_fields(run: Run, tmp_path: Path) -> None:
    files = export_run(run, "robustbench", tmp_path / "Mine2026.pt")
    assert files == [tmp_path / "Mine2026.pt", tmp_path / "Mine2026.json"]
    made = open_trained(run, {})
    weights = torch.load(files[0], weights_only=True)
    assert weights.keys() == made.model.state_dict().keys()
    reported = json.loads(files[1].read_text())
    fields = "link name authors additional_data number_forward_passes dataset venue architecture eps clean_acc reported"
    assert list(reported) == [*fields.split(), "autoattack_acc", "footnote", "unreliable", "threat_model"]
    assert (reported["eps"], reported["threat_model"], reported["architecture"]) == ("0.2", "Linf", "digits-cnn")
    assert reported["additional_data"] is False
    assert reported["autoattack_acc"] is None and reported["clean_acc"] is None, (
        "PGD is not what RobustBench's field means"
    )


@pytest.mark.parametrize("changes", [{"data.extra": "npz:more"}, {"model.checkpoint": "base.safetensors"}])
def test_images_that_others_have_not_are_told(run: Run, changes: dict[str, str]) -> None:
    made = open_trained(run, {})
    assert model_info(replace(made, config=overridden(made.config, changes)), run)["additional_data"] is True


@pytest.mark.parametrize(
    ("checkpoint", "weights", "accuracy"),
    [("step-000000004", "plain", "41.50"), ("step-000000002", "plain", None), ("step-000000004", "ema", None)],
)
def test_autoattacks_figure_is_taken_only_if_it_is_of_these_weights(
    run: Run, tmp_path: Path, checkpoint: str, weights: str, accuracy: str | None
) -> None:
    evaluated = {"attack": describe("linf", 0.2, 10), "clean_accuracy": 0.9, "robust_accuracy": 0.415, "samples": 200}
    evaluated["drawn"] = "the first of 360"
    run.write_json("evaluation.json", {**evaluated, "checkpoint": checkpoint, "weights": weights})
    try:
        reported = json.loads(export_run(run, "robustbench", tmp_path / "m.pt")[1].read_text())
    finally:
        (run.path / "evaluation.json").unlink()
    assert reported["autoattack_acc"] == accuracy
    assert ("200 test examples (the first of 360)" in reported["footnote"]) is (accuracy is not None)


@pytest.mark.parametrize("there", ["m.pt", "m.json"])
def test_nothing_is_overwritten(run: Run, tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("mine")
    with pytest.raises(UsageError, match=f"{there} exists; nothing is overwritten"):
        export_run(run, "robustbench", tmp_path / "m.pt")
    assert [path.name for path in tmp_path.iterdir()] == [there] and (tmp_path / there).read_text() == "mine"


def test_what_cannot_be_written_is_told(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="known are robustbench, safetensors, onnx"):
        export_run(run, "tflite", tmp_path / "m")
    with pytest.raises(UsageError, match="there is no folder"):
        export_run(run, "onnx", tmp_path / "nowhere" / "m.onnx")
    with pytest.raises(SparringError, match="has no best"):
        export_run(run, "onnx", tmp_path / "m.onnx", best=True)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(SparringError, match=r"pip install 'sparring\[export\]'"):
        export_run(open_run(run.path), "onnx", tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["robustbench", "safetensors", "onnx"])
def test_a_full_disk_is_one_sentence_with_the_file_and_leaves_nothing(run: Run, tmp_path: Path, kind: str) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxscript")
    with files_of_at_most(500), pytest.raises(SparringError) as failed:
        export_run(run, kind, tmp_path / "m.bin")
    assert (
        str(failed.value)
        == f"{tmp_path / 'm.bin'}: {os.strerror(errno.EFBIG)}. Free space there, or use a folder on another disk."
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("epsilon", "text"), [(0.3, "0.3"), (0.031, "0.031"), (8 / 255, "8/255"), (0.0123456789, "0.0123457")]
)
def test_an_epsilon_is_written_as_robustbench_does(epsilon: float, text: str) -> None:
    assert fraction(epsilon) == text
