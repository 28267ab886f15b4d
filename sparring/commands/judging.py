"""Judging a network's examples as tickets, in this process or by workers: the journal, the workers, the metrics."""

from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from sparring.attacks import Attack
from sparring.config import Config
from sparring.data import Dataset, Sample
from sparring.errors import UsageError
from sparring.evaluation.autoattack import require_autoattack
from sparring.evaluation.journal import Journal
from sparring.evaluation.judging import Judgement, Tally, judge
from sparring.evaluation.panels import AutoAttackPanel, Panel, Restarts
from sparring.evaluation.robustness import Evaluation, attack_for, evaluation_of
from sparring.evaluation.tickets import InProcess, Judges
from sparring.observe.exporter import Exporter
from sparring.observe.state import RunState

if TYPE_CHECKING:
    from sparring.engines.ray.judges import Weights

log = logging.getLogger(__name__)

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Judged:
    """The network that is judged: its settings, the test set, the attack that it was trained against, and what its
    verdicts are kept under. workers: whether the settings' workers do it. sources: the user's own files."""

    config: Config
    model: nn.Module
    test: Dataset
    threat: Attack
    weights: str
    folder: Path
    sources: Mapping[str, str]
    workers: bool = False


@dataclass(frozen=True)
class How:
    """resume: go on with verdicts that are there, and refuse if there are none. again: forget them first. within: stop
    once the interval reaches no further than this share. keep_images: in the judgement; without verdicts that are
    known."""

    resume: bool = False
    again: bool = False
    within: float | None = None
    keep_images: bool = False


BY_DEFAULT = How()


def panel_of(config: Config, threat: Attack, test: Dataset) -> Panel:
    """The attacks that the settings name, within the ball of `threat`.

    Raises:
        SparringError: AutoAttack cannot attack such images.
    """
    settings, seed = config.evaluation, config.train.seed
    if settings.attack == "pgd":
        return Restarts(attack_for(threat, settings), seed)
    require_autoattack(test.shape, threat.norm, test.classes)
    return AutoAttackPanel(threat.norm, threat.epsilon, test.classes, seed, settings.version, settings.attacks)


def judged(what: Judged, how: How, progress: Progress | None = None) -> tuple[Evaluation, Judgement, dict[str, Any]]:
    """The evaluation, each example's part in it, and what is to be said beside it: mode, attacks that broke, queries.

    Raises:
        UsageError: there is nothing to resume, or another evaluation of the same kind is under way.
        SparringError: the workers do not start, or the disk is full.
    """
    config, began = what.config, time.monotonic()
    settings = config.evaluation
    sample = Sample(what.test, settings.samples, settings.draw)
    panel = panel_of(config, what.threat, what.test)
    with ExitStack() as stack:
        journal = None if how.keep_images else _journal(what, panel, sample, how)
        if journal is not None:
            stack.enter_context(journal.owned())
        told = _Told(progress, RunState(phase="evaluating", engine="evaluation", dataset=config.data.name))
        judges = stack.enter_context(judges_of([what], lambda: told.state))
        found = judge(
            judges,
            sample,
            panel,
            batch_size=settings.batch_size,
            mode=settings.mode,
            journal=journal,
            within=how.within,
            keep_images=how.keep_images,
            progress=told,
        )
    seen = sample if len(found.places) == len(sample) else sample.some(found.places)
    evaluation = evaluation_of(found.outcomes, seen, panel.description, time.monotonic() - began, found.warnings)
    return evaluation, found, _beside(what, found, None if journal is None else journal.path)


def _journal(what: Judged, panel: Panel, sample: Sample, how: How) -> Journal:
    """Where these verdicts are kept. In mode "exact" they depend on what else is in the sample."""
    config = what.config
    settings = config.evaluation
    identity: dict[str, Any] = {
        **panel.identity,
        "weights": what.weights,
        "model": config.model.model_dump(mode="json", include={"name", "options"}),
        "normalize": config.data.normalize,
        "data": what.test.fingerprint,
        "mode": settings.mode,
    }
    if settings.mode == "exact":
        identity |= {"samples": len(sample), "draw": settings.draw, "batch_size": settings.batch_size}
    journal = Journal(what.folder, settings.attack, identity)
    if how.resume and not journal.entries():
        raise UsageError(
            f"--resume: {what.folder} holds no verdicts of an evaluation with these weights and settings. Leave it out "
            f"to begin one."
        )
    if how.again:
        journal.forget()
    return journal


class _Told:
    """Passes on how far the evaluation is: as sentences, and to the metrics."""

    def __init__(self, progress: Progress | None, state: RunState) -> None:
        self.progress, self.state, self._last = progress, state, ""

    def __call__(self, news: Tally | str) -> None:
        if isinstance(news, Tally):
            self.state.evaluation = {
                name: getattr(news, name)
                for name in ("examples", "judged", "robust", "known", "tickets", "tickets_done", "workers", "deaths")
            } | {"seconds_left": news.seconds_left}
            self._last = str(news)
        if self.progress is not None:
            self.progress(self._last if isinstance(news, Tally) else f"{self._last}; {news}")


@contextmanager
def judges_of(
    whats: Sequence[Judged], told: Callable[[], RunState] = lambda: RunState(phase="evaluating", engine="evaluation")
) -> Iterator[Judges]:
    """Who judges these networks, in this order: this process, or the workers of the first one's settings.

    told: what the metrics of the workers' evaluation are read from.
    """
    first = whats[0]
    if not first.workers:
        yield InProcess([what.model for what in whats])
        return
    from sparring.engines.ray.judges import ray_judges

    config, sources = first.config, {path: text for what in whats for path, text in what.sources.items()}
    with ExitStack() as stack:
        if config.metrics.enabled:
            served = stack.enter_context(Exporter(config.metrics.bind, config.metrics.port, lambda: (told(), {})))
            log.warning("metrics: http://%s:%d/metrics", config.metrics.bind, served.port)
        yield stack.enter_context(ray_judges(config, [_weights(what) for what in whats], sources))


def _weights(what: Judged) -> Weights:
    from sparring.engines.ray.actors import tree_of
    from sparring.engines.ray.judges import Weights

    tensors = {name: tensor.cpu() for name, tensor in what.model.state_dict().items()}
    return Weights(tree_of(what.config), what.test.shape, what.test.classes, tensors)


def _beside(what: Judged, found: Judgement, journal: Path | None) -> dict[str, Any]:
    broken = Counter(verdict.broken_by for verdict in found.verdicts.values() if verdict.broken_by is not None)
    return {
        "mode": what.config.evaluation.mode,
        "broken_by": dict(broken),
        "queries": sum(verdict.queries for verdict in found.verdicts.values()),
        "known": found.known,
        "verdicts": None if journal is None else str(journal),
    }


def digest_of(file: Path) -> str:
    """SHA-256 of a file of weights."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
