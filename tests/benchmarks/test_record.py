"""A record holds by its rules alone: a fixed judge, enough seeds, a mean that is surely above the target."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from scipy import stats

from benchmarks.record import compared, config_of, verdict
from sparring.errors import UsageError
from sparring.machine.threads import cores
from tests.support.examples import ROOT

RULES = {
    "target": 0.1,
    "settings": {"data.name": "digits", "attack.epsilon": 0.2},
    "judge": {"attack": "pgd", "steps": 2, "restarts": 1, "samples": 40},
}
RECIPE = '[data]\nname = "digits"\n[train]\nmax_steps = 4\n[evaluation]\nsteps = 1\n'


def record(track: Path, name: str, recipe: str = RECIPE) -> Path:
    (track / name).mkdir(parents=True)
    (track / name / "recipe.toml").write_text('engine = "sync"\n' + recipe)
    return track / name


def lines(*accuracies: float) -> list[dict[str, float]]:
    return [{"robust_accuracy": each, "seconds": 10.0} for each in accuracies]


def test_a_mean_that_is_surely_above_the_target_holds() -> None:
    high = [0.85 + 0.001 * number for number in range(10)]
    found = verdict(lines(*high), 0.84)
    expected = stats.t.sf((sum(high) / 10 - 0.84) / (stats.tstd(high) / 10**0.5), 9)
    assert found["holds"] and found["p"] == pytest.approx(expected) and found["seconds"] == 10
    assert not verdict(lines(*high[:9]), 0.84)["holds"], "too few seeds"
    assert not verdict(lines(*high), 0.854)["holds"], "the mean is above the target by chance"
    assert not verdict(lines(*[0.9] * 10), 0.84)["holds"], "ten equal runs are no ten seeds"


def test_an_older_record_is_compared_seed_by_seed() -> None:
    pairs = [{"seconds": new, "beside": {"old": {"seconds": old}}} for new, old in ((5.0, 10.0), (10.0, 10.0))]
    assert compared([*pairs, {"seconds": 1.0}]) == {"old": {"ratio": 1.5, "seeds": 2}}


def test_the_judge_is_that_of_the_rules_and_what_is_fixed_stays(tmp_path: Path) -> None:
    config = config_of(record(tmp_path, "mine"), RULES, 3, tmp_path, tmp_path / "out")
    assert (config.evaluation.steps, config.evaluation.samples, config.train.seed) == (2, 40, 3)
    other = record(tmp_path, "easier", RECIPE + "[attack]\nepsilon = 0.1\n")
    with pytest.raises(UsageError, match=r"attack\.epsilon is fixed by the rules as 0\.2"):
        config_of(other, RULES, 0, tmp_path, tmp_path / "out")


def test_runs_are_kept_and_the_record_is_written(tmp_path: Path) -> None:
    new, old = record(tmp_path, "new"), record(tmp_path, "old")
    rules = f'target = 0.1\ncores = {cores()}\n[settings]\n"data.name" = "digits"\n'
    rules += "[judge]\nsteps = 2\nrestarts = 1\nsamples = 40\n"
    (tmp_path / "rules.toml").write_text(rules)
    command = [sys.executable, "-m", "benchmarks.record", str(new), "--data", str(tmp_path), "--beside", str(old)]
    for seeds in ("1", "2"):
        said = subprocess.run([*command, "--seeds", seeds], capture_output=True, text=True, timeout=120)
        assert said.returncode == 0, said.stderr
    log = [json.loads(line) for line in (new / "log.jsonl").read_text().splitlines()]
    assert [line["seed"] for line in log] == [0, 1] and log[0]["attack"].startswith("PGD-2")
    found = json.loads((new / "record.json").read_text())
    assert found["seeds"] == 2 and not found["holds"] and found["beside"]["old"]["seeds"] == 2
    assert "times as fast as old over 2 seeds" in said.stdout


def test_the_tracks_that_are_kept_have_recipes_by_their_rules() -> None:
    for rules in (ROOT / "lab" / "records").glob("*/rules.toml"):
        for recipe in rules.parent.glob("*/recipe.toml"):
            assert config_of(recipe.parent, tomllib.loads(rules.read_text()), 0, Path("/d"), Path("/o")).train.seed == 0
