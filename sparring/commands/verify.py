"""Verifying a run: for each example of a sample a proof that it is robust, or an image that shows that it is not."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from sparring.attacks import PGD
from sparring.commands.evaluate import Progress, keep, open_judged
from sparring.commands.judging import BY_DEFAULT, How, Judged, behaviour_of, identity_of, owned
from sparring.config import config_of
from sparring.data import Sample
from sparring.errors import UsageError
from sparring.evaluation.findings import too_small
from sparring.evaluation.mixed_integer import require_solver
from sparring.evaluation.relu_network import relu_network
from sparring.evaluation.robustness import attack_for, describe
from sparring.evaluation.verification import Prover
from sparring.evaluation.verifying import Finding, Findings, decide_there, figures, image_of, processes_of, verify
from sparring.machine.threads import cores
from sparring.runs import Run

RESULT, IMAGES = "verified.json", "verified-counterexamples.npz"


@dataclass(frozen=True)
class Asked:
    """What is to be verified. epsilon: radius under L∞, in pixel intensities; None: that of the training. samples: test
    examples. timeout_s: processor seconds for each. processes: None: as many as there are cores.

    Raises:
        UsageError: a value is out of its bounds.
    """

    epsilon: float | None = None
    samples: int = 100
    timeout_s: float = 60.0
    processes: int | None = None

    def __post_init__(self) -> None:
        if self.epsilon is not None and not 0 < self.epsilon <= 1:
            raise UsageError(f"--epsilon {self.epsilon:g}: a radius above 0 and up to 1 is needed, such as 0.1.")
        if not self.timeout_s > 0:
            raise UsageError(f"--timeout-s {self.timeout_s:g}: more than 0 seconds are needed, such as 60.")
        for name, count in (("samples", self.samples), ("processes", self.processes)):
            if count is not None and count < 1:
                raise UsageError(f"--{name} {count}: at least 1 is needed.")


def verify_run(
    run: Run,
    changes: dict[str, str],
    asked: Asked,
    *,
    best: bool = False,
    how: How = BY_DEFAULT,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Verified accuracy under L∞ and each example's verdict; also written to the run's verified.json, and the
    misclassified images to verified-counterexamples.npz. Findings are kept in the run's folder, example by example.

    Raises:
        UsageError: the network is no chain of layers that can be verified, or as `open_trained`.
        SparringError: HiGHS is not installed, a process died, or as `open_trained`.
    """
    require_solver()
    began = time.monotonic()
    made, what = open_judged(run, {**changes, "evaluation.samples": str(asked.samples)}, best=best, chooses=False)
    if what.workers:
        raise UsageError("--workers: proofs are made by processes of this machine. Give --processes N instead.")
    settings = what.config.evaluation
    prover = Prover(relu_network(made.model, made.test.shape), _epsilon(asked, what), asked.timeout_s)
    attack, sample = attack_for(PGD(prover.epsilon), settings), Sample(made.test, settings.samples, settings.draw)
    with ExitStack() as stack:
        journal = owned(stack, _journal(what, prover), how)
        if journal is not None:
            journal.begin(how.again)
        executor = stack.enter_context(processes_of(prover, min(asked.processes or cores(), asked.samples)))
        findings = verify(
            made.model,
            sample,
            prover,
            attack,
            executor,
            decide=decide_there,
            batch_size=settings.batch_size,
            seed=what.config.train.seed,
            journal=journal,
            progress=progress,
        )
    found = figures(findings, sample, prover)
    found["warnings"] += too_small(prover.epsilon)
    result = made.figures(found)
    result |= {
        "trained_epsilon": config_of(run).attack.epsilon,
        "attack": describe(attack),
        "seconds": time.monotonic() - began,
        "journal": None if journal is None else str(journal.path),
        "counterexamples": _keep_images(run, sample, findings),
    }
    keep(run, RESULT, result)
    return result


def _epsilon(asked: Asked, what: Judged) -> float:
    if asked.epsilon is not None:
        return asked.epsilon
    if what.threat.norm != "linf":
        raise UsageError(
            f"attack.norm = {what.threat.norm!r}: proofs are for balls under L∞, and the run has no radius for one. "
            f"Give --epsilon."
        )
    return what.threat.epsilon


def _journal(what: Judged, prover: Prover) -> Findings:
    identity = {**identity_of(what), "norm": "linf", "epsilon": prover.epsilon, "highspy": version("highspy")}
    return Findings(what.folder, "verify", identity, behaviour_of(what.model, what.test))


def _keep_images(run: Run, sample: Sample, findings: list[Finding]) -> str | None:
    """Write the misclassified images; returns the file, None if there are none."""
    path, labels = run.path / IMAGES, dict(zip(sample.indices.tolist(), sample.labels.tolist(), strict=True))
    broken = [each for each in findings if each.verdict == "broken"]
    path.unlink(missing_ok=True)
    if not broken:
        return None
    _write(path, np.stack([image_of(each, sample.shape) for each in broken]), [each.example for each in broken], labels)
    return str(path)


def _write(path: Path, images: Any, examples: list[int], labels: dict[int, int]) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, images=images, examples=examples, labels=[labels[each] for each in examples])
