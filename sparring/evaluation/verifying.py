"""Verify the examples of a sample one by one: an attack first, then proofs by processes, kept as they are found."""

from __future__ import annotations

import base64
import math
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from sparring.attacks import Attack, frozen
from sparring.data import Sample
from sparring.errors import SparringError
from sparring.evaluation.journal import Entries
from sparring.evaluation.outcomes import attacked_outcomes, batches
from sparring.evaluation.relaxation import box_of
from sparring.evaluation.robustness import interval
from sparring.evaluation.verification import Image, Proof, Prover, inside, is_broken
from sparring.machine.signals import end_with_parent
from sparring.models.forward import plain

VERDICTS = ("wrong", "broken", "verified", "timed out", "undecided")
OPEN = ("timed out", "undecided")
Progress = Callable[[str], None]


class Finding(NamedTuple):
    """What is known of one example.

    example: its index in the data set. verdict: one of VERDICTS; wrong: without an attack. by: what found it: clean,
    pgd, crown, cases, mip or nothing. seconds: of a processor, for the proof. timeout_s: what the proof was given.
    image: float32 [C, H, W], the misclassified one of its ball, as bytes in base64; None where there is none.
    """

    example: int
    verdict: str
    by: str
    seconds: float = 0.0
    timeout_s: float = 0.0
    image: str | None = None

    def holds(self, timeout_s: float) -> bool:
        """Whether another try with so much time could find nothing else."""
        return self.verdict != "timed out" or self.timeout_s >= timeout_s


class Findings(Entries[Finding]):
    """The findings of one network and radius, on disk."""

    def parsed(self, line: Mapping[str, Any]) -> Finding | None:
        if set(line) != set(Finding._fields):
            return None
        found = Finding(**line)
        numbers = (found.seconds, found.timeout_s)
        sound = (
            isinstance(found.example, int)
            and found.example >= 0
            and found.verdict in VERDICTS
            and isinstance(found.by, str)
            and all(isinstance(each, int | float) and math.isfinite(each) for each in numbers)
            and (isinstance(found.image, str) if found.verdict == "broken" else found.image is None)
        )
        return found if sound else None


def verify(
    model: nn.Module,
    sample: Sample,
    prover: Prover,
    attack: Attack,
    executor: Executor,
    *,
    decide: Callable[[Image, int, Sequence[Image]], Proof],
    batch_size: int = 500,
    seed: int = 0,
    journal: Findings | None = None,
    progress: Progress | None = None,
) -> list[Finding]:
    """A finding for each example of the sample, in its order.

    Args:
        model: the network that `prover` has as a chain.
        attack: tried first; what it misclassifies inside the ball needs no proof.
        executor: does the proofs; `decide` is what it calls, such as `prover` itself, or `decide_there` in a process.
        journal: findings that are known are not made again, and new ones are added.

    Raises:
        SparringError: a process died, the disk is full, or a bound is wrong.
    """
    indices = sample.indices.tolist()
    known = _known(journal, prover.timeout_s)
    reporter = _Reporter(progress, [known[each] for each in indices if each in known], len(indices))
    left = [place for place, index in enumerate(indices) if index not in known]

    def keep(finding: Finding) -> None:
        known[finding.example] = finding
        if journal is not None:
            journal.add([finding])
        reporter(finding)

    pending: dict[Future[Proof], int] = {}
    for finding, proof in _attacked(model, sample, left, prover, attack, batch_size, seed):
        if proof is None:
            keep(finding)
        else:
            pending[executor.submit(decide, *proof)] = finding.example
    try:
        for done in as_completed(pending):
            keep(_finding(pending[done], done.result(), prover.timeout_s))
    except BrokenProcessPool as error:
        raise SparringError(
            "a process that verified has died, which happens where memory is short. What was found is kept: the same "
            "command goes on from there; --processes N makes it take less memory."
        ) from error
    return [known[index] for index in indices]


def figures(findings: Sequence[Finding], sample: Sample, prover: Prover) -> dict[str, Any]:
    """Verified accuracy from below and from above, with 95 % intervals, and what they are made of."""
    total, counts = len(findings), Counter(each.verdict for each in findings)
    verified, undecided = counts["verified"], sum(counts[each] for each in OPEN)
    found: dict[str, Any] = {}
    for name, count in (
        ("verified", verified),
        ("upper", verified + undecided),
        ("clean", total - counts["wrong"]),
    ):
        found |= {f"{name}_accuracy": count / total, f"{name}_interval": interval(count, total)}
    labels = dict(zip(sample.indices.tolist(), sample.labels.tolist(), strict=True))
    return found | {
        "samples": total,
        "drawn": sample.rule,
        "norm": "linf",
        "epsilon": prover.epsilon,
        "timeout_s": prover.timeout_s,
        "counts": {each: counts[each] for each in VERDICTS},
        "by": dict(Counter(each.by for each in findings if each.by)),
        "processor_seconds": sum(each.seconds for each in findings),
        "slowest_s": max(each.seconds for each in findings),
        "examples": [
            {"example": each.example, "label": labels[each.example], "verdict": each.verdict, "by": each.by}
            | {"seconds": round(each.seconds, 3)}
            for each in findings
        ],
        "warnings": [*sample.warnings, *_doubts(counts, prover)],
    }


def image_of(finding: Finding, shape: tuple[int, int, int]) -> Image:
    """The misclassified image of a broken example that is not wrong by itself, float32 [C, H, W]."""
    found: Image = np.frombuffer(base64.b64decode(finding.image or ""), dtype="<f4").reshape(shape)
    return found


@contextmanager
def processes_of(prover: Prover, count: int) -> Iterator[Executor]:
    """An executor of `count` processes for `decide_there`; they end with this one, whatever ends it."""
    before = multiprocessing.active_children()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, context, initializer=_begin, initargs=(prover,)) as executor:
        try:
            yield executor
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                if child not in before:
                    child.kill()
            raise


def decide_there(image: Image, label: int, seen: Sequence[Image]) -> Proof:
    """The proof by the prover that this process was begun with."""
    return _provers[0](image, label, seen)


_provers: list[Prover] = []


def _begin(prover: Prover) -> None:
    """A process for proofs: one thread, a quiet standard output (HiGHS prints its name), no life without its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    torch.set_num_threads(1)
    end_with_parent()
    _provers[:] = [prover]


def _known(journal: Findings | None, timeout_s: float) -> dict[int, Finding]:
    found = {} if journal is None else {each.example: each for each in journal.entries()}
    return {example: each for example, each in found.items() if each.holds(timeout_s)}


Ask = tuple[Image, int, list[Image]]


def _attacked(
    model: nn.Module, sample: Sample, left: Sequence[int], prover: Prover, attack: Attack, batch_size: int, seed: int
) -> Iterator[tuple[Finding, Ask | None]]:
    """What the attack makes of the examples in these places: a finding, or what is to be asked of the prover."""
    model, some = plain(model), sample.some(torch.tensor(left, dtype=torch.int64))
    indices = some.indices.tolist()
    with frozen(model):
        for first, x, y in batches(model, some, batch_size):
            found, images = attacked_outcomes(model, x, y, attack, seed, first)
            for row, (label, clean) in enumerate(zip(y.tolist(), found.clean.tolist(), strict=True)):
                index = indices[first + row]
                if not clean:
                    yield Finding(index, "wrong", "clean"), None
                    continue
                image, attacked = (each[row].cpu().flatten().numpy() for each in (x, images))
                attacked = inside(attacked, box_of(image.astype(np.float64), prover.epsilon))
                if is_broken(prover.network, attacked, label):
                    yield Finding(index, "broken", "pgd", image=_text(attacked)), None
                else:
                    yield Finding(index, "undecided", ""), (image, label, [attacked])


def _finding(example: int, proof: Proof, timeout_s: float) -> Finding:
    image = None if proof.image is None else _text(proof.image)
    return Finding(example, proof.verdict, proof.by, proof.seconds, timeout_s, image)


def _text(image: Image) -> str:
    return base64.b64encode(image.astype("<f4").tobytes()).decode()


def _doubts(counts: Mapping[str, int], prover: Prover) -> list[str]:
    found = []
    if counts["timed out"]:
        found.append(
            f"{counts['timed out']} examples were not decided in {prover.timeout_s:g} s each: they count as broken in "
            f"verified_accuracy and as verified in upper_accuracy. --timeout-s gives them more time."
        )
    if counts["undecided"]:
        found.append(
            f"{counts['undecided']} examples have a least margin that is too near to 0 for the arithmetic: they count "
            f"as broken in verified_accuracy and as verified in upper_accuracy."
        )
    return found


class _Reporter:
    """Says how far the verification is, and how long it still takes at the pace of the proofs until now."""

    def __init__(self, progress: Progress | None, known: Sequence[Finding], total: int) -> None:
        self.progress, self.total, self.known = progress, total, len(known)
        self.counts = Counter(each.verdict for each in known)
        self.began, self.proved_s, self.proved = time.monotonic(), 0.0, 0

    def __call__(self, finding: Finding) -> None:
        self.counts[finding.verdict] += 1
        elapsed = time.monotonic() - self.began
        if finding.seconds:
            self.proved += 1
        else:
            self.proved_s = elapsed  # the attack is at work until here
        if self.progress is not None:
            self.progress(self._sentence(elapsed))

    def _sentence(self, elapsed: float) -> str:
        done = sum(self.counts.values())
        verdicts = ", ".join(f"{self.counts[each]} {each}" for each in VERDICTS if self.counts[each])
        known = f" ({self.known} known before)" if self.known else ""
        time_left = ""
        if self.proved:
            seconds = (elapsed - self.proved_s) / self.proved * (self.total - done)
            time_left = f", about {_clock(seconds)} left"
        return f"{done} of {self.total} examples{known}: {verdicts}; {_clock(elapsed)} elapsed{time_left}"


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
