"""The examples of a sample: each has its verdict, whoever is killed goes on, and figures count what is open apart."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sparring.attacks import PGD
from sparring.config import DataSettings
from sparring.data import Sample, load
from sparring.errors import SparringError
from sparring.evaluation.relu_network import relu_network
from sparring.evaluation.robustness import evaluate, interval
from sparring.evaluation.tickets import examples_at
from sparring.evaluation.verification import Image, Proof, Prover
from sparring.evaluation.verifying import Finding, Findings, figures, image_of, processes_of, verify

pytest.importorskip("highspy")
EPSILON = 0.12
ATTACK = PGD(EPSILON, steps=2, restarts=1)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 10))
    data = load(DataSettings(), "train")
    x, y = examples_at(data, range(len(data)))
    optimizer = torch.optim.Adam(made.parameters(), 0.01)
    for _ in range(40):
        delta = (EPSILON * torch.randn_like(x).sign()).requires_grad_()
        gradient = torch.autograd.grad(F.cross_entropy(made(x + delta), y), delta)[0]
        optimizer.zero_grad()
        F.cross_entropy(made(x + EPSILON * gradient.sign()), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return made.eval()


@pytest.fixture(scope="module")
def sample() -> Sample:
    return Sample(load(DataSettings(), "test"), 40)


@pytest.fixture(scope="module")
def prover(model: nn.Module) -> Prover:
    return Prover(relu_network(model, (1, 8, 8)), EPSILON, 20.0)


@pytest.fixture
def executor() -> Iterator[Executor]:
    with ThreadPoolExecutor(1) as made:
        yield made


@pytest.fixture(scope="module")
def findings(model: nn.Module, sample: Sample, prover: Prover) -> list[Finding]:
    with ThreadPoolExecutor(1) as executor:
        return verify(model, sample, prover, ATTACK, executor, decide=prover)


def test_every_example_is_decided_and_no_attack_contradicts_it(
    model: nn.Module, sample: Sample, prover: Prover, findings: list[Finding]
) -> None:
    assert [each.example for each in findings] == sample.indices.tolist()
    counts, by = Counter(each.verdict for each in findings), Counter(each.by for each in findings)
    assert set(counts) == {"wrong", "broken", "verified"} and min(by["crown"], by["mip"], by["pgd"]) > 0, (counts, by)
    for attack in (PGD(EPSILON, steps=40, restarts=5), PGD(EPSILON, steps=10, restarts=3)):
        robust = evaluate(model, sample, attack).verdicts
        assert robust is not None
        for finding, survived, clean in zip(findings, robust.robust.tolist(), robust.clean.tolist(), strict=True):
            assert survived or finding.verdict != "verified"
            assert clean == (finding.verdict != "wrong")


def test_a_counterexample_lies_in_the_ball_and_is_misclassified(
    model: nn.Module, sample: Sample, findings: list[Finding]
) -> None:
    x, y = examples_at(sample, range(len(sample)))
    for image, label, finding in zip(x, y.tolist(), findings, strict=True):
        if finding.verdict == "broken":
            found = image_of(finding, (1, 8, 8))
            assert found.min() >= 0 and found.max() <= 1
            assert abs(found.astype(float) - image.double().numpy()).max() <= EPSILON
            assert int(model(torch.from_numpy(found.copy())[None]).argmax()) != label


def test_figures_count_what_is_open_in_neither_direction(
    sample: Sample, prover: Prover, findings: list[Finding]
) -> None:
    verified = [place for place, each in enumerate(findings) if each.verdict == "verified"]
    some = list(findings)
    some[verified[0]] = some[verified[0]]._replace(verdict="timed out", by="")
    some[verified[1]] = some[verified[1]]._replace(verdict="undecided", by="")
    found = figures(some, sample, prover)
    assert found["verified_accuracy"] == (len(verified) - 2) / 40 and found["upper_accuracy"] == len(verified) / 40
    assert found["verified_interval"] == interval(len(verified) - 2, 40)
    assert found["clean_accuracy"] == 1 - found["counts"]["wrong"] / 40
    assert found["counts"]["timed out"] == found["counts"]["undecided"] == 1
    assert sum(found["counts"].values()) == len(found["examples"]) == found["samples"] == 40
    assert found["warnings"][0].startswith("1 examples were not decided in 20 s each") and len(found["warnings"]) == 2


def test_whoever_is_killed_goes_on_where_it_was(
    model: nn.Module, sample: Sample, prover: Prover, findings: list[Finding], executor: Executor, tmp_path: Path
) -> None:
    journal, asked, said = Findings(tmp_path, "verify", {"a": 1}), [0], list[str]()
    journal.path.touch()

    def dies(image: Image, label: int, seen: Sequence[Image]) -> Proof:
        asked[0] += 1
        if asked[0] == 9:
            raise KeyboardInterrupt
        return prover(image, label, seen)

    def again(decide: object) -> list[Finding]:
        assert callable(decide)
        kept = {"journal": journal, "progress": said.append}
        return verify(model, sample, prover, ATTACK, executor, decide=decide, **kept)  # type: ignore[arg-type]

    with pytest.raises(KeyboardInterrupt):
        again(dies)
    executor.shutdown(wait=True, cancel_futures=True)
    known = len(journal.entries())
    assert 8 <= known < 40
    asked[0] = 100
    with ThreadPoolExecutor(1) as fresh:
        executor = fresh
        found = again(dies)
    assert [each[:3] for each in found] == [each[:3] for each in findings]
    assert len(journal.entries()) == 40 and asked[0] - 100 < 40 - known + 1
    assert said[-1].startswith(f"40 of 40 examples ({known} known before): ") and said[-1].endswith(
        "about 0:00:00 left"
    )


def test_a_time_out_is_tried_again_with_more_time_alone(
    model: nn.Module, sample: Sample, prover: Prover, findings: list[Finding], executor: Executor, tmp_path: Path
) -> None:
    journal, asked = Findings(tmp_path, "verify", {}), list[int]()
    journal.path.touch()
    open_ = [each for each in findings if each.by in ("crown", "cases", "mip")]
    journal.add([each for each in findings if each not in open_])
    journal.add([each._replace(verdict="timed out", by="", timeout_s=5.0, image=None) for each in open_])

    def instead(image: Image, label: int, seen: Sequence[Image]) -> Proof:
        asked.append(label)
        return Proof("verified", "crown", 0.1)

    for timeout_s, proofs in ((4.0, 0), (5.0, 0), (6.0, len(open_)), (9.0, 0)):
        asked.clear()
        verify(model, sample, replace(prover, timeout_s=timeout_s), ATTACK, executor, decide=instead, journal=journal)
        assert len(asked) == proofs, timeout_s


@pytest.mark.parametrize(
    "change",
    [{"verdict": "safe"}, {"example": -1}, {"seconds": "1"}, {"image": "AAAA"}, {"more": 1}, {"verdict": "broken"}],
)
def test_a_damaged_line_of_the_journal_is_passed_over(tmp_path: Path, change: dict[str, object]) -> None:
    journal = Findings(tmp_path, "verify", {})
    line = Finding(3, "verified", "mip", 1.5, 60.0)
    assert journal.parsed(line._asdict()) == line
    assert journal.parsed({**line._asdict(), **change}) is None


def test_a_finding_that_was_altered_is_found_anew(tmp_path: Path) -> None:
    journal, line = Findings(tmp_path, "verify", {}), Finding(3, "verified", "mip", 1.5, 60.0)
    with journal.owned():
        journal.begin()
        journal.add([line])
    assert journal.entries() == [line]
    journal.path.write_text(journal.path.read_text().replace('"example": 3', '"example": 2'))
    assert journal.entries() == []
    journal.path.write_text(json.dumps(line._asdict()) + "\n")
    assert journal.entries() == [line], "earlier versions wrote no digests"


def _die(image: Image, label: int, seen: Sequence[Image]) -> Proof:
    os._exit(9)


def test_a_process_that_dies_ends_in_one_sentence(model: nn.Module, sample: Sample, prover: Prover) -> None:
    with (
        pytest.raises(SparringError, match="What was found is kept: the same command goes on from there"),
        processes_of(prover, 1) as executor,
    ):
        verify(model, sample, prover, ATTACK, executor, decide=_die)


def test_no_image_is_lost_in_the_journal(findings: list[Finding]) -> None:
    broken = next(each for each in findings if each.verdict == "broken")
    assert image_of(broken, (1, 8, 8)).dtype == np.float32 and len(broken.image or "") > 64 * 4
