"""A point's key stands for all that its figures depend on, and a claim is held against what was run."""

from __future__ import annotations

from dataclasses import replace

from sparring.lab.results import Results
from sparring.lab.study import OURS, UNMEASURED, Claim, Point, baseline
from tests.support.studies import record

POINT = Point("train", {"s": 1, "seed": 0}, {"train.seed": 0, "attack.steps": 2}, {"series": ["loss"]})


def test_a_key_stands_for_what_the_figures_depend_on() -> None:
    assert replace(POINT, at={"elsewhere": 3}).key == POINT.key
    assert replace(POINT, settings={"attack.steps": 2, "train.seed": 0}).key == POINT.key  # the order does not matter
    others = [
        replace(POINT, does="evaluate"),
        replace(POINT, settings={"train.seed": 1, "attack.steps": 2}),
        replace(POINT, options={}),
        replace(POINT, needs=(POINT,)),
        replace(POINT, needs=(replace(POINT, options={}),)),
    ]
    assert len({each.key for each in [POINT, *others]}) == 6
    assert POINT.key == "".join(sign for sign in POINT.key if sign in "0123456789abcdef") and len(POINT.key) == 16


def test_a_claim_agrees_differs_or_was_not_run() -> None:
    claim = Claim("more is better", "by 2", lambda results: (f"{results.mean('gain'):.1f}", results.mean("gain") > 1))
    verdicts = [claim.verdict(Results([record("train", {}, gain=gain)])) for gain in (2.0, 0.5)]
    assert [(each.ours, each.word) for each in verdicts] == [("2.0", "agrees"), ("0.5", "differs")]
    assert claim.verdict(Results([])).word == "not run"
    ours = Claim("nobody measured it", "", lambda results: ("3", None))
    assert ours.verdict(Results([])).word == "open"


def test_a_statement_of_our_own_holds_or_does_not() -> None:
    claims = [Claim("ours", paper, lambda results: ("1", results.mean("gain") > 1)) for paper in (OURS, UNMEASURED)]
    for gain, word in ((2.0, "holds"), (0.5, "does not hold")):
        assert {each.verdict(Results([record("train", {}, gain=gain)])).word for each in claims} == {word}
    assert claims[0].verdict(Results([])).word == "not run"


def test_nothing_is_said_beside_a_network_that_did_not_train() -> None:
    claim = Claim("as good", "", lambda results: ("x", results.mean("gain") >= baseline(11.4) - 3))
    found = claim.verdict(Results([record("train", {}, gain=90)]))
    assert found.word == "open" and found.ours == "what it is compared with did not train (11.4)"
    assert baseline(50.0) == 50.0
    assert baseline(11.4, chance=5.0) == 11.4
