"""Example by example the verdicts are those of one process, whoever makes the tickets and whatever is known already."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sparring.data import batch
from sparring.errors import UsageError
from sparring.evaluation import autoattack as module
from sparring.evaluation.autoattack import autoattack
from sparring.evaluation.journal import Journal
from sparring.evaluation.judging import Tally, judge
from sparring.evaluation.outcomes import outcomes
from sparring.evaluation.panels import AutoAttackPanel, Restarts
from sparring.evaluation.tickets import InProcess
from tests.support.judged import EPSILON, PGD_3, Backwards, examples, network

SIZE = 16
PANEL = AutoAttackPanel("linf", EPSILON, 10, seed=0)
PGD = Restarts(PGD_3, seed=0)


def backwards(most: int = 1000) -> Backwards:
    return Backwards([network()], most)


@pytest.fixture(autouse=True)
def few_queries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(module, "SQUARE_QUERIES", 20)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path, "test", {})


@pytest.mark.parametrize(("version", "attacks"), [("standard", ()), ("plus", ("apgd-dlr", "fab"))])
def test_in_mode_exact_autoattack_is_that_of_its_authors_in_one_process(version: str, attacks: tuple[str, ...]) -> None:
    sample = examples(30)
    x, y = batch(sample, torch.arange(len(sample)), augment="none", seed=0, epoch=0)
    how: dict[str, Any] = {"norm": "linf", "epsilon": EPSILON, "classes": 10, "seed": 0}
    how |= {"version": version, "attacks": attacks}
    expected = autoattack(network(), x, y, batch_size=SIZE, **how)
    found = judge(backwards(), sample, AutoAttackPanel(**how), batch_size=SIZE, keep_images=True)
    assert torch.equal(found.outcomes.robust, expected.alive) and 0 < int(expected.alive.sum()) < len(x)
    for place, image in found.images.items():
        assert torch.equal(image, expected.images[place])
    assert {each.broken_by for each in found.verdicts.values()} >= {None, (*attacks, "apgd-ce")[0]}


def test_pgd_is_that_of_one_process() -> None:
    sample = examples()
    expected = outcomes(network(), sample, PGD_3, batch_size=SIZE, seed=0)
    for mode in ("exact", "fast"):
        found = judge(backwards(), sample, PGD, batch_size=SIZE, mode=mode)
        for name in ("labels", "clean", "robust", "zero_gradient", "confidence", "probabilities"):
            assert torch.equal(getattr(found.outcomes, name), getattr(expected, name)), name
        broken = [each.queries for each in found.verdicts.values() if each.broken_by == "restart 2"]
        assert broken and set(broken) == {2 * (PGD_3.steps + 1)}


@pytest.mark.parametrize("panel", [replace(PANEL, attacks=("apgd-ce", "square")), PGD])
def test_whoever_is_killed_goes_on_to_the_same_verdicts(journal: Journal, panel: AutoAttackPanel | Restarts) -> None:
    sample = examples(64)
    whole = judge(InProcess([network()]), sample, panel, batch_size=SIZE)
    with journal.owned():
        journal.begin()
        for most in (2, 2):  # the first look takes one
            with pytest.raises(KeyboardInterrupt):
                judge(backwards(most), sample, panel, batch_size=SIZE, journal=journal)
        found = judge(backwards(), sample, panel, batch_size=SIZE, journal=journal)
        again = judge(backwards(1), sample, panel, batch_size=SIZE, journal=journal)
    assert found.known > 0 and found.verdicts == whole.verdicts == again.verdicts
    assert torch.equal(found.outcomes.robust, whole.outcomes.robust)


def test_more_restarts_more_attacks_and_more_examples_use_what_is_known(journal: Journal) -> None:
    fast: dict[str, Any] = {"batch_size": SIZE, "mode": "fast", "journal": journal}
    with journal.owned():
        journal.begin()
        judge(InProcess([network()]), examples(32), Restarts(replace(PGD_3, restarts=2), 0), **fast)
        more = judge(InProcess([network()]), examples(64), PGD, **fast)
        made = [(each.example, entry.attack) for entry in journal.entries() for each in entry.verdicts]
        assert len(made) == len(set(made)) and more.known > 32 and "restart 3" in dict(made).values()
        assert all(each.queries <= 18 for each in more.verdicts.values())
    one = replace(PANEL, attacks=("apgd-ce",))
    exact = Journal(journal.path.parent, "exact", {})
    with exact.owned():
        exact.begin()
        judge(InProcess([network()]), examples(48), one, batch_size=SIZE, journal=exact)
        two = replace(PANEL, attacks=("apgd-ce", "square"))
        found = judge(InProcess([network()]), examples(48), two, batch_size=SIZE, journal=exact)
        assert {entry.attack for entry in exact.entries()} == {"apgd-ce", "square"}
    assert found.verdicts == judge(InProcess([network()]), examples(48), two, batch_size=SIZE).verdicts


def test_it_stops_when_the_interval_is_narrow_enough() -> None:
    told: list[Tally | str] = []
    whole = judge(InProcess([network()]), examples(None), PGD, batch_size=SIZE, mode="fast")
    judges = InProcess([network()])
    found = judge(judges, examples(None), PGD, batch_size=SIZE, mode="fast", within=0.1, progress=told.append)
    slow = judge(backwards(), examples(None), PGD, batch_size=SIZE, mode="fast", within=0.1)
    assert len(slow.places) == 360, "the first tickets count before later ones, whichever is done first"
    robust = whole.outcomes.robust[found.places]
    assert 50 < len(found.places) < 200, "0.1 takes about 90 examples"
    assert torch.equal(found.outcomes.labels, whole.outcomes.labels[found.places])
    assert float((found.outcomes.robust != robust).float().mean()) < 0.05, "other batches, other random starts"
    last = told[-1]
    assert isinstance(last, Tally) and last.robust > 0 and "tickets, of 360 examples" in str(last)
    for panel in (PANEL, PGD):
        with pytest.raises(UsageError, match=r"evaluation\.mode to 'fast'"):
            judge(InProcess([network()]), examples(), panel, batch_size=SIZE, within=0.1)


def test_a_guess_of_the_time_left_follows_from_the_tickets_done() -> None:
    tally = Tally(10)
    tally.begin("square", 4)
    assert tally.seconds_left is None and str(tally) == "square: 0 of 4 tickets"
    tally.tickets_done, tally.began = 1, tally.began - 60
    assert tally.seconds_left == pytest.approx(180, abs=1) and str(tally).endswith("about 3 min left")
