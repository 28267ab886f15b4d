"""Workers judge as one process does, and whoever is killed costs only what it was at."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparring.commands.evaluate import evaluate_run
from sparring.commands.judging import How
from sparring.commands.train import train
from sparring.config import DataSettings
from sparring.data import load
from sparring.engines.ray.actors import tree_of
from sparring.engines.ray.judges import Weights, ray_judges
from sparring.errors import UsageError
from sparring.evaluation.tickets import Ticket, Unheard, examples_at
from sparring.models import build
from sparring.runs import Run
from tests.support.processes import child_of
from tests.support.runs import Place, small
from tests.support.waiting import TIMEOUT_S, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]
SETTINGS = {
    "evaluation.attack": "autoattack",
    "evaluation.attacks": '["apgd-ce", "apgd-dlr"]',
    "evaluation.samples": "120",
    "evaluation.batch_size": "6",
}
HOW = [word for name, value in SETTINGS.items() for word in (f"--{name}", value)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("judged")
    return train(small(root, engine="sync", train={"epochs": 2, "max_steps": None}), progress=False).run


def command(run: Run, *words: str) -> list[str]:
    return [sys.executable, "-m", "sparring", "evaluate", str(run.path), *HOW, "--json", *words]


def evaluated(run: Run, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(subprocess.run(command(run, *words), stdout=subprocess.PIPE, check=True).stdout)
    return found


def lines(run: Run) -> int:
    return sum(len(path.read_text().splitlines()) for path in (run.path / "verdicts").glob("*"))


def judges_of(driver: int) -> list[int]:
    """The process ids of this evaluation's workers."""
    parents: dict[int, tuple[int, str]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            stat = (folder / "stat").read_text()
            parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1]), (folder / "cmdline").read_text()

    def is_below(pid: int) -> bool:
        return pid in parents and (parents[pid][0] == driver or is_below(parents[pid][0]))

    return [pid for pid, (_, command) in parents.items() if command.startswith("ray::Judge") and is_below(pid)]


def test_a_killed_worker_and_a_killed_driver_cost_only_what_they_were_at(run: Run, tmp_path: Path) -> None:
    with (tmp_path / "said").open("w") as said:
        first = subprocess.Popen(command(run, "--workers", "2"), stdout=subprocess.DEVNULL, stderr=said)
        try:
            wait_for("the first verdicts", lambda: lines(run) >= 2)
            os.kill(judges_of(first.pid)[0], signal.SIGKILL)
            wait_for("its death", lambda: "a worker died" in (tmp_path / "said").read_text())
        finally:
            orphans = judges_of(first.pid)
            first.kill()
            first.wait(TIMEOUT_S)
    kept = lines(run) - 1  # the first line is the identity
    assert first.returncode == -signal.SIGKILL and kept >= 1
    wait_for(
        "an end of the workers without a driver", lambda: not any(Path(f"/proc/{pid}").exists() for pid in orphans)
    )
    resumed = evaluated(run, "--resume")
    assert resumed["known"] > 5 * (kept - 1) and lines(run) > kept
    alone = evaluated(run, "--again")  # in this process; so was the rest, and workers made the beginning
    assert alone["known"] == 0 and alone["broken_by"]
    for name in ("clean_accuracy", "robust_accuracy", "broken_by", "by_class", "queries", "warnings", "attack"):
        assert resumed[name] == alone[name], name
    with pytest.raises(UsageError, match="--resume: "):
        evaluate_run(run, {**SETTINGS, "evaluation.batch_size": "7"}, how=How(resume=True))


@pytest.mark.chaos
def test_a_stopped_worker_is_ended_and_its_tickets_are_given_to_others(run: Run, tmp_path: Path) -> None:
    with (tmp_path / "said").open("w") as said:
        more = ("--evaluation.samples", "360", "--evaluation.batch_size", "40", "--workers.hang_timeout_s", "1")
        words = command(run, "--workers", "2", "--again", *more)
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=said)
        try:
            wait_for("the first verdicts", lambda: lines(run) >= 2)
            os.kill(judges_of(process.pid)[0], signal.SIGSTOP)
            out, _ = process.communicate(timeout=TIMEOUT_S)
        finally:
            process.kill()
    assert process.returncode == 0 and "it is ended" in (tmp_path / "said").read_text()
    assert json.loads(out)["samples"] == 360, "nothing but data, also where a process dies"


@pytest.mark.chaos
def test_where_ray_dies_a_sentence_is_said_and_the_verdicts_go_on(run: Run, tmp_path: Path) -> None:
    longer = ("--evaluation.samples", "360", "--evaluation.attacks", '["apgd-ce", "apgd-t"]')
    with (tmp_path / "said").open("w") as said:
        words = command(run, "--workers", "2", "--again", *longer)
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=said)
        wait_for("the first verdicts", lambda: lines(run) >= 2)
        os.kill(child_of(process.pid, "raylet"), signal.SIGKILL)
        assert process.wait(TIMEOUT_S) == 1
    wait_for("the sentence", lambda: "sparring: " in (tmp_path / "said").read_text())
    assert "raylet" in (tmp_path / "said").read_text().rpartition("sparring: ")[2]
    assert evaluated(run, "--resume", *longer)["known"] > 0


HANGING = """
import sys, threading, torch
from sparring.config import from_tree
from sparring.engines.ray.actor_inputs import ActorInputs
from sparring.engines.ray.actors import tree_of
from sparring.engines.ray.judges import Judge, Weights

settings = tree_of(from_tree({"model": {"name": "mnist-16-32-100"}, "workers": {"hang_timeout_s": 2.0}}))
judge, x, y = Judge(settings, ActorInputs((), {}, ())), torch.zeros(2, 1, 28, 28), torch.zeros(2, dtype=torch.int64)
network = Weights(settings, (1, 28, 28), 10, {})
Weights.network = lambda self: torch.nn.Flatten()
judge.take([network])


def passes(models, x, y, progress):
    for _ in range(8):
        threading.Event().wait(0.3)
        models[0](x)
    return "all passes"


print(judge.work(passes, x, y), flush=True)
threading.Event().wait(2.5)
print("nothing hangs between two tickets", flush=True)
judge.work(lambda *_: threading.Event().wait(60), x, y)
"""


def test_a_worker_that_makes_no_pass_for_too_long_ends_itself_and_says_where() -> None:
    done = subprocess.run([sys.executable, "-c", HANGING], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stdout == "all passes\nnothing hangs between two tickets\n", done.stderr
    assert "Timeout (0:00:02)!" in done.stderr and "in wait" in done.stderr


def test_a_worker_that_is_killed_while_it_has_nothing_to_do_gets_its_networks_again(
    tmp_path: Path, shared_ray: Place
) -> None:
    """Three times, so that no ticket is blamed for it."""
    config, test = shared_ray(small(tmp_path, workers={"count": 1})), load(DataSettings(), "test")
    model = build(config.model, test.shape, test.classes, 0)
    weights, ticket = Weights(tree_of(config), test.shape, test.classes, model.state_dict()), Ticket(0, (1, 2), pid_of)
    with ray_judges(config, [weights], {}) as judges:
        seen: list[int] = []
        for _ in range(4):
            ((_, (pid, logits)),) = judges.results(test, [ticket], Unheard())
            assert torch.equal(logits, model.eval()(examples_at(test, (1, 2))[0])) and pid not in seen
            seen.append(pid)
            os.kill(pid, signal.SIGKILL)
            wait_for("its end", lambda: not Path(f"/proc/{seen[-1]}").exists())
        assert judges.deaths == 3


def pid_of(models: Sequence[nn.Module], x: Tensor, y: Tensor, progress: object) -> tuple[int, Tensor]:
    """The process that works, and the logits."""
    return os.getpid(), models[0](x).detach()
