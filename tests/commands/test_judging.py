"""An evaluation's verdicts are kept under all that they depend on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from sparring.attacks import PGD
from sparring.commands.judging import How, Judged, digest_of, judged, panel_of, require_used
from sparring.config import EvaluationSettings, from_tree
from sparring.data import Sample, load
from sparring.errors import SparringError, UsageError
from tests.support.judged import EPSILON, network


def what(folder: Path, count: int = 2, **evaluation: Any) -> Judged:
    chosen = {"samples": 60, "steps": 4, "restarts": 2, "batch_size": 20, **evaluation}
    config = from_tree({"evaluation": chosen, "workers": {"count": count}})
    return Judged(config, network(), load(config.data, "test"), PGD(EPSILON), "digest", folder, {})


def test_the_same_evaluation_knows_its_verdicts_and_any_other_does_not(tmp_path: Path) -> None:
    first, of_each, beside = judged(what(tmp_path), How())
    assert beside["known"] == 0 and Path(beside["verdicts"]).parent == tmp_path
    assert (
        sum(beside["broken_by"].values()) == sum(each.broken_by is not None for each in of_each.verdicts.values()) > 0
    )
    assert beside["queries"] == sum(each.queries for each in of_each.verdicts.values())
    again, _, known = judged(what(tmp_path), How(resume=True))
    assert known["known"] > len(of_each.verdicts) and replace(again, seconds=0) == replace(first, seconds=0)
    others = [
        *(what(tmp_path, **change) for change in ({"batch_size": 30}, {"samples": 50}, {"steps": 5}, {"mode": "fast"})),
        replace(what(tmp_path), weights="other"),
        replace(what(tmp_path), threat=PGD(0.1)),
    ]
    for other in others:
        with pytest.raises(UsageError, match=r"--resume: .* holds no verdicts"):
            judged(other, How(resume=True))
    assert judged(what(tmp_path), How(again=True))[2]["known"] == 0


def test_verdicts_of_other_code_are_refused_and_a_refusal_costs_none(tmp_path: Path) -> None:
    class Rounding(nn.Module):
        """The same weights, read otherwise."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, x: Tensor) -> Tensor:
            """x: float32 [N, 1, 8, 8]; logits [N, 10]."""
            logits: Tensor = self.inner((4 * x).round() / 4)
            return logits

    _, _, beside = judged(what(tmp_path), How())
    other = replace(what(tmp_path), model=Rounding())
    text = Path(beside["verdicts"]).read_text()
    with pytest.raises(UsageError, match="its code, or what it imports, has changed"):
        judged(other, How())
    with pytest.raises(UsageError, match="--until"):
        judged(what(tmp_path), How(again=True, within=0.1))
    assert Path(beside["verdicts"]).read_text() == text


def test_what_has_no_effect_is_refused(tmp_path: Path) -> None:
    pgd, auto = EvaluationSettings(), EvaluationSettings(attack="autoattack")
    assert require_used({"workers.count": 2, "ray.address": "auto", "evaluation.steps": 3}, pgd)
    assert not require_used({"evaluation.samples": 3}, auto)
    assert not require_used({"evaluation.steps": 3}, auto, ("evaluation.attack",)), "it attacks by PGD of its own"
    for changes, settings, unused, said in (
        ({"ray.address": "auto"}, pgd, (), r"--ray\.address is for workers"),
        ({"evaluation.restarts": 2}, auto, (), "AutoAttack has its own"),
        ({"evaluation.attack": "autoattack"}, auto, ("evaluation.attack",), "no effect here"),
    ):
        with pytest.raises(UsageError, match=said):
            require_used(changes, settings, unused)
    with pytest.raises(UsageError, match=r"workers\.count = 0"):
        judged(replace(what(tmp_path, count=0), workers=True), How())
    for given in ({"resume": True, "again": True}, {"resume": True, "keep_images": True}):
        with pytest.raises(UsageError):
            How(**given)


def test_a_folder_that_cannot_be_written_to_costs_no_figure(tmp_path: Path) -> None:
    (tmp_path / "verdicts").write_text("a file")
    found, _, beside = judged(what(tmp_path / "verdicts"), How())
    assert found.samples == 60 and beside["verdicts"] is None and beside["known"] == 0


def test_in_mode_fast_other_samples_and_batches_use_what_is_known(tmp_path: Path) -> None:
    judged(what(tmp_path, mode="fast"), How())
    found, _, beside = judged(what(tmp_path, mode="fast", samples=100, batch_size=25), How(resume=True))
    assert found.samples == 100 and beside["known"] > 60


def test_progress_says_how_far_it_is_and_an_early_end_what_it_stands_on(tmp_path: Path) -> None:
    said: list[str] = []
    found, judgement, beside = judged(what(tmp_path, mode="fast", samples=None), How(within=0.12), said.append)
    assert found.samples == len(judgement.places) < 360
    assert found.drawn == f"the first {found.samples} of 360 in random order, all"
    low, high = found.robust_interval
    assert max(high - found.robust_accuracy, found.robust_accuracy - low) <= 0.12
    assert "1 of 18 tickets" in "".join(said)
    reach = max(high - found.robust_accuracy, found.robust_accuracy - low)
    assert beside["until"] == f"within {100 * reach:.1f} points after {found.samples} examples"
    assert judged(what(tmp_path, mode="fast"), How(within=0.01))[2]["until"].startswith("not reached: within 1")


def test_what_autoattack_cannot_attack_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    one = what(tmp_path / "none", attack="autoattack")
    alike = Sample(one.test, None)
    alike.classes = 1
    with pytest.raises(SparringError, match="an attack needs another class"):
        judged(replace(one, test=alike), How())
    assert not (tmp_path / "none").exists()
    assert panel_of(one.config, one.threat, one.test).names == ("apgd-ce", "apgd-t", "fab-t", "square")


def test_the_file_is_readable(tmp_path: Path) -> None:
    _, _, beside = judged(what(tmp_path), How())
    head, *lines = map(json.loads, Path(beside["verdicts"]).read_text().splitlines())
    assert head["identity"]["weights"] == "digest" and head["identity"]["samples"] == 60
    assert len(head["behaviour"]) == 4 * 11, "logits and a gradient's size of four images"
    assert [line["attack"] for line in lines] == 3 * ["restart 1", "restart 2"]
    (tmp_path / "weights").write_bytes(b"")
    assert digest_of(tmp_path / "weights").startswith("e3b0c442")
