"""The commands that evaluate a run: figures with the number of examples, or one sentence why not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from sparring.commands.evaluate import load_model
from sparring.commands.train import train
from sparring.config import config_of
from sparring.data import load
from sparring.runs import Run, open_run
from tests.support.commands import Say
from tests.support.runs import small


def test_evaluate_prints_json_alone_on_standard_output(say: Say, finished: Path) -> None:
    said = say("evaluate", finished, "--evaluation.samples", "30", "--evaluation.steps", "3", "--json")
    reported = json.loads(said.out)
    assert said.code == 0 and reported["samples"] == 30 and reported["attack"].startswith("PGD-3, 1 restart")
    assert (
        0 <= reported["robust_accuracy"] <= reported["clean_accuracy"] <= 1
        and reported["checkpoint"] == "step-000000003"
    )
    assert json.loads((finished / "evaluation.json").read_text()) == reported


def test_evaluate_shows_a_table_with_the_number_of_examples(say: Say, finished: Path) -> None:
    said = say("evaluate", finished)
    assert said.code == 0 and "robust accuracy" in said.out and "samples" in said.out and "50" in said.out


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        (["--attack.steps", "9"], "--attack.steps cannot change here: it is not about how the model is evaluated"),
        (["--best"], "has no best (no held-out examples were evaluated: train.evaluate_every_epochs) checkpoint"),
    ],
)
def test_evaluate_refuses_what_is_not_about_evaluating(
    say: Say, finished: Path, words: list[str], reported: str
) -> None:
    said = say("evaluate", finished, *words)
    assert said.code in (1, 2) and reported in said.complaint


def test_evaluate_takes_another_radius_and_names_both(say: Say, finished: Path) -> None:
    words = ["evaluate", finished, "--evaluation.samples", "30", "--json"]
    small, own = (json.loads(say(*words, *more).out) for more in (["--attack.epsilon", "0.001"], []))
    assert (small["epsilon"], small["trained_epsilon"], own["epsilon"]) == (0.001, 0.2, 0.2)
    assert small["attack"].endswith("linf 0.001") and small["robust_accuracy"] >= own["robust_accuracy"]


def test_evaluate_shows_the_classes_one_by_one(say: Say, finished: Path) -> None:
    reported = json.loads(say("evaluate", finished, "--json").out)
    assert sum(each["samples"] for each in reported["by_class"]) == reported["samples"]
    for name in ("clean_accuracy", "robust_accuracy"):
        mean = sum(each["samples"] * each[name] for each in reported["by_class"]) / reported["samples"]
        assert mean == pytest.approx(reported[name])
    shown = say("evaluate", finished).out
    assert "By class" in shown and all(f"{each['label']}" in shown for each in reported["by_class"])


def test_evaluate_saves_images_of_eight_bits_that_lie_in_the_ball_and_are_evaluated_as_saved(
    say: Say, finished: Path, tmp_path: Path
) -> None:
    path = tmp_path / "attacked.npz"
    said = say("evaluate", finished, "--save", path, "--evaluation.samples", 360, "--json")
    assert said.code == 0, said.complaint
    reported, kept = json.loads(said.out), np.load(path)
    run, images = open_run(finished), torch.from_numpy(kept["images"]).permute(0, 3, 1, 2)
    test = load(config_of(run).data, "test")
    clean = test.images(torch.arange(len(test)))
    assert images.dtype == torch.uint8 and (images.int() - clean.int()).abs().max() == int(0.2 * 255)
    right = load_model(finished)(images.float() / 255).argmax(1) == test.labels
    assert torch.equal(torch.from_numpy(kept["correct"]), right) and kept["labels"].tolist() == test.labels.tolist()
    assert reported["saved_accuracy"] == int(right.sum()) / reported["samples"] and reported["saved"] == str(path)
    again = say("evaluate", finished, "--save", path)
    assert again.code == 2 and "the file exists; nothing is overwritten" in again.complaint


def test_a_run_without_a_checkpoint_cannot_be_evaluated(say: Say, finished: Path) -> None:
    shutil.rmtree(finished / "checkpoints")
    said = say("evaluate", finished)
    assert said.code == 1 and "has no whole checkpoint; train or resume it first" in said.complaint


def test_transfer_prints_the_matrix_with_its_counts(say: Say, finished: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(finished, tmp_path / "other"))
    words = ["transfer", finished, other, "--evaluation.samples", "20"]
    said = say(*words, "--json")
    reported = json.loads(said.out)
    assert said.code == 0 and reported["samples"] == 20 and reported["names"] == ["finished", "other"]
    assert reported["accuracy"][0][0] == reported["accuracy"][0][1], "the same weights"
    shown = say(*words)
    assert "20 test examples" in shown.out and "PGD-2" in shown.out and "95 %" in shown.out


@pytest.mark.parametrize(
    ("words", "reported"), [(["finished"], "needs two runs or more"), (["finished", "finished"], "is given twice")]
)
def test_transfer_needs_different_runs(say: Say, finished: Path, words: list[str], reported: str) -> None:
    said = say("transfer", *(finished for _ in words))
    assert said.code == 2 and reported in said.complaint


def test_transfer_of_other_threats_is_refused(say: Say, finished: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(finished, tmp_path / "other"))
    config = (other / "config.toml").read_text()
    Run(other).write_config(config.replace("epsilon = 0.2", "epsilon = 0.1"))
    said = say("transfer", finished, other)
    assert said.code == 2 and "attack.epsilon = 0.2 in finished and 0.1 in other" in said.complaint


def test_curves_keep_their_figures_and_say_the_rule(say: Say, finished: Path) -> None:
    said = say("curves", finished, "--evaluation.samples", "10", "--evaluation.square_queries", "0")
    kept = json.loads((finished / "curves.json").read_text())
    assert said.code == 0 and "10 test examples" in said.out and "sign test" in said.out
    assert kept["samples"] == 10 and kept["black_box"] is None and len(kept["by_steps"]) == 7


def test_curves_end_with_the_verdict_and_its_evidence(say: Say, finished: Path) -> None:
    said = say("curves", finished, "--evaluation.samples", "10", "--evaluation.square_queries", "20")
    masking = json.loads((finished / "curves.json").read_text())["masking"]
    assert said.code == 0 and f"Verdict: {masking['verdict']}. {masking['note']}" in said.out
    assert len(masking["evidence"]) == 8 and all(each["samples"] <= 10 for each in masking["evidence"])
    for each in masking["evidence"]:
        assert (
            f"- {each['name']}, {'points to masking' if each['points'] else 'no sign'}: {each['measured']}" in said.out
        )


def test_curves_refuse_a_picture_that_cannot_be_drawn(say: Say, finished: Path) -> None:
    said = say("curves", finished, "--plot", "curves.pdf")
    assert (
        said.code == 2 and "give the path of a .png file" in said.complaint and not (finished / "curves.json").exists()
    )


def test_corruptions_of_data_without_files_are_refused(say: Say, finished: Path) -> None:
    said = say("corruptions", finished, "--corruptions.root", ".")
    assert said.code == 2 and "files exist for cifar10 and cifar100" in said.complaint


def test_export_prints_what_it_wrote_and_overwrites_nothing(say: Say, finished: Path, elsewhere: Path) -> None:
    words = ["export", finished, "--format", "safetensors", "--out", "model.safetensors"]
    said = say(*words)
    assert said.code == 0 and said.out == "model.safetensors\n" and (elsewhere / "model.safetensors").is_file()
    again = say(*words)
    assert again.code == 2 and "nothing is overwritten" in again.complaint
    assert say("export", finished, "--format", "onnx").code == 2, "--out is missing"


def test_curves_draw_the_picture_that_is_asked_for(say: Say, finished: Path, elsewhere: Path) -> None:
    pytest.importorskip("matplotlib")
    words = ["--evaluation.samples", "5", "--evaluation.square_queries", "0", "--plot", "curves.png", "--json"]
    said = say("curves", finished, *words)
    assert said.code == 0 and json.loads(said.out)["samples"] == 5 and (elsewhere / "curves.png").is_file()


def test_corruptions_show_every_severity_and_the_mean(say: Say, finished: Path) -> None:
    pytest.importorskip("imagecorruptions")
    said = say("corruptions", finished, "--evaluation.samples", "4")
    shown = " ".join(said.out.split())
    assert said.code == 0 and "4 test examples (drawn from 360 with seed 0, each class in its share)" in shown
    assert "severities 1 to 5 and their mean" in shown and "hold 4 of 10 classes" in shown
    found = json.loads((finished / "corruptions.json").read_text())
    assert all(each["corruption"] in said.out and len(each["accuracy"]) == 5 for each in found["corruptions"])
    assert f"{100 * found['corrupted_accuracy']:.1f} %" in said.out


def test_verify_prints_json_alone_and_goes_on_with_what_is_known(say: Say, tmp_path: Path) -> None:
    pytest.importorskip("highspy")
    run = train(small(tmp_path, engine="sync", model={"name": "tests.support.relu:for_digits"})).run.path
    words = ["verify", run, "--epsilon", "0.02", "--samples", "12", "--processes", "1", "--timeout-s", "20"]
    said = say(*words, "--evaluation.steps", "5", "--json")
    reported = json.loads(said.out)
    assert said.code == 0 and reported["samples"] == 12 and " of 12 examples: " in said.err
    assert 0 <= reported["verified_accuracy"] <= reported["upper_accuracy"] <= reported["clean_accuracy"] <= 1
    assert json.loads((run / "verified.json").read_text()) == reported
    shown = say(*words, "--resume")
    assert shown.code == 0 and "verified accuracy" in shown.out and "timed out: 0" in shown.out


def test_verify_refuses_networks_that_it_has_no_proofs_for(say: Say, finished: Path) -> None:
    pytest.importorskip("highspy")
    said = say("verify", finished, "--epsilon", "0.1")
    assert said.code == 2 and "5 is a MaxPool2d, which cannot be verified. Supported: Linear" in said.complaint
    assert say("verify", finished, "--epsilon", "2").code == 2
    wrong = say("evaluate", finished, "--samples", "3")
    assert wrong.code == 2, "the option is another command's"


def test_margins_are_shown_with_the_examples_that_they_are_of(say: Say, finished: Path) -> None:
    said = say("margins", finished, "--evaluation.samples", "6")
    assert said.code == 0 and "broken within" in said.out
    assert "Examples: drawn from 360 with seed 0" in said.out and "misclassified as they are." in said.out


def test_runs_of_different_seeds_are_compared(say: Say, finished: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(finished, tmp_path / "other"))
    config = (other / "config.toml").read_text()
    assert "\nseed = 0\n" in config
    Run(other).write_config(config.replace("\nseed = 0\n", "\nseed = 7\n"))
    said = say("compare", finished, other, "--evaluation.samples", "20")
    assert said.code == 0 and "finished" in said.out and "other" in said.out and "p" in said.out
    refused = say("compare", finished, other, "--evaluation.attack", "none")
    assert refused.code == 2
