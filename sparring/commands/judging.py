"""Judging a network's examples as tickets, in this process or by workers: the journal, the workers, the metrics."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparring.attacks import Attack, frozen
from sparring.config import Config, EvaluationSettings
from sparring.data import Dataset, Sample
from sparring.errors import SparringError, UsageError
from sparring.evaluation.autoattack import require_autoattack
from sparring.evaluation.fooled import fooled
from sparring.evaluation.journal import Entries, Journal
from sparring.evaluation.judging import Judgement, Tally, judge, require_possible
from sparring.evaluation.panels import AutoAttackPanel, Panel, Restarts
from sparring.evaluation.robustness import Evaluation, attack_for, evaluation_of, targets_of
from sparring.evaluation.tickets import InProcess, Judges, examples_at
from sparring.machine.devices import device_of
from sparring.models.forward import plain
from sparring.observe.exporter import Exporter
from sparring.observe.state import RunState

if TYPE_CHECKING:
    from sparring.engines.ray.judges import Weights

log = logging.getLogger(__name__)

OF_WORKERS = ("workers.", "ray.", "metrics.")
OF_PGD = ("evaluation.steps", "evaluation.step_size", "evaluation.restarts", "evaluation.targets")
BEHAVIOUR = 4  # images on which it is looked at

Progress = Callable[[str], None]
J = TypeVar("J", bound=Entries[Any])


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

    def __post_init__(self) -> None:
        for name, given in (("--resume", self.resume), ("--again", self.again)):
            if given and self.keep_images:
                raise UsageError(f"{name} with --save: known verdicts have no images, all are attacked. Leave it out.")
        if self.resume and self.again:
            raise UsageError("--resume with --again: one goes on with known verdicts, the other forgets them.")


BY_DEFAULT = How()


def require_used(changes: Mapping[str, Any], settings: EvaluationSettings, unused: Collection[str] = ()) -> bool:
    """Refuse changes that would have no effect; whether workers are asked for.

    changes: by full name. unused: groups or names that a command with attacks of its own has no use for.

    Raises:
        UsageError: there is one.
    """
    by_workers = "workers.count" in changes
    by_autoattack = settings.attack == "autoattack" and not unused
    for name in changes:
        if name.startswith(OF_WORKERS) and not by_workers:
            raise UsageError(f"--{name} is for workers, and none are asked for. Give --workers N too, or leave it out.")
        if by_autoattack and name in OF_PGD:
            raise UsageError(f"--{name} is for PGD: AutoAttack has its own. Leave it out, or set evaluation.attack.")
        if name.startswith(("evaluation.rolling", *unused)):
            raise UsageError(f"--{name} has no effect here. Leave it out.")
    return by_workers


def panel_of(config: Config, threat: Attack, test: Dataset) -> Panel:
    """The attacks that the settings name, within the ball of `threat`.

    Raises:
        SparringError: AutoAttack cannot attack such images.
    """
    settings, seed = config.evaluation, config.train.seed
    if settings.attack == "pgd":
        return Restarts(attack_for(threat, settings), seed, targets_of(settings, test.classes))
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
    require_possible(panel, settings.mode, how.within)
    if what.workers and config.workers.count == 0:
        raise UsageError("workers.count = 0: nobody would attack. Leave --workers out to attack in this process.")
    with ExitStack() as stack:
        journal = None if how.keep_images else owned(stack, _journal(what, panel, sample), how)
        reporter = _Reporter(progress, RunState(phase="evaluating", engine="evaluation", dataset=config.data.name))
        judges = stack.enter_context(judges_of([what], lambda: reporter.state))
        if journal is not None:
            journal.begin(how.again)  # as late as this: until here nothing is lost
        found = judge(
            judges,
            sample,
            panel,
            batch_size=settings.batch_size,
            mode=settings.mode,
            journal=journal,
            within=how.within,
            keep_images=how.keep_images,
            progress=reporter,
        )
    seen = sample if len(found.places) == len(sample) else sample.some(found.places)
    warnings = found.warnings
    if doubtful := panel.doubtful:
        survivors, at_random = found.outcomes.robust.nonzero()[:, 0], not panel.of_one_pass
        how_attacked = {"at_random": at_random, "complete": panel.complete}
        warnings += tuple(fooled(what.model, seen, doubtful, survivors, config.train.seed, **how_attacked))
    evaluation = evaluation_of(found.outcomes, seen, panel.description, time.monotonic() - began, warnings)
    beside = _beside(what, found, None if journal is None else journal.path)
    if how.within is not None:
        beside["until"] = _until(how.within, evaluation)
    return evaluation, found, beside


def _journal(what: Judged, panel: Panel, sample: Sample) -> Journal:
    """Where these verdicts are kept. In mode "exact" they depend on what else is in the sample."""
    settings = what.config.evaluation
    identity = {**panel.identity, **identity_of(what), "mode": settings.mode}
    if settings.mode == "exact":
        identity |= {"samples": len(sample), "draw": settings.draw, "batch_size": settings.batch_size}
    return Journal(what.folder, settings.attack, identity, behaviour_of(what.model, what.test))


def identity_of(what: Judged) -> dict[str, Any]:
    """All that tells a network on its data from others, in plain types."""
    config = what.config
    return {
        "weights": what.weights,
        "model": config.model.model_dump(mode="json", include={"name", "options"}),
        "normalize": config.data.normalize,
        "sources": hashlib.sha256(json.dumps(dict(what.sources), sort_keys=True).encode()).hexdigest(),
        "data": what.test.fingerprint,
        **{name: version(name) for name in ("sparring", "torch")},
    }


def of_sample(settings: EvaluationSettings) -> dict[str, Any]:
    """The settings of the examples and their batches, with which random starts change."""
    return {"samples": settings.samples, "draw": settings.draw, "batch_size": settings.batch_size}


def behaviour_of(model: nn.Module, test: Dataset) -> list[float]:
    """Logits and gradients of a few images, which tell whether a network of the same weights has other code; empty
    where they are not the same twice."""
    x, y = examples_at(test, range(min(BEHAVIOUR, len(test))))
    once, again = (_numbers(plain(model), x, y) for _ in range(2))
    return once if once == again and all(map(math.isfinite, once)) else []


def _numbers(model: nn.Module, x: Tensor, y: Tensor) -> list[float]:
    device = device_of(model)
    images = x.to(device).requires_grad_()
    with frozen(model), torch.enable_grad():
        logits = model(images)
        gradients = [torch.zeros_like(images)]
        if logits.requires_grad:
            gradients = list(torch.autograd.grad(F.cross_entropy(logits.float(), y.to(device)), images))
    sizes = gradients[0].flatten(1).abs().sum(1)
    found: list[float] = torch.cat([logits.detach().float().flatten(), sizes.float()]).cpu().tolist()
    return found


def owned(stack: ExitStack, journal: J, how: How) -> J | None:
    """The journal, locked; None, with a warning, where its folder may not be written to.

    Raises:
        UsageError: another evaluation of the same kind is under way, there is nothing to resume, or the verdicts are
            of another network.
    """
    try:
        stack.enter_context(journal.owned())
    except UsageError:
        raise
    except SparringError as error:
        log.warning("verdicts are not kept, and known ones not used: %s", error)
        return None
    if how.resume and not journal.entries():
        raise UsageError(
            f"--resume: {journal.path.parent} holds no verdicts of an evaluation with these weights and settings. "
            f"Leave it out to begin one."
        )
    if not how.again:
        journal.require_same()
    return journal


def _until(within: float, evaluation: Evaluation) -> str:
    """Whether the interval became narrow enough, and what it stands on."""
    low, high = evaluation.robust_interval
    half_width = max(high - evaluation.robust_accuracy, evaluation.robust_accuracy - low)
    found = f"within {100 * half_width:.1f} points after {evaluation.samples} examples"
    return found if half_width <= within else f"not reached: {found}, which are all"


class _Reporter:
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
    whats: Sequence[Judged], state: Callable[[], RunState] = lambda: RunState(phase="evaluating", engine="evaluation")
) -> Iterator[Judges]:
    """Who judges these networks, in this order: this process, or the workers of the first one's settings.

    state: what the metrics of the workers' evaluation are read from.
    """
    first = whats[0]
    if not first.workers:
        yield InProcess([what.model for what in whats])
        return
    from sparring.engines.ray.judges import ray_judges

    config, sources = first.config, {path: text for what in whats for path, text in what.sources.items()}
    with ExitStack() as stack:
        if config.metrics.enabled:
            served = stack.enter_context(Exporter(config.metrics.bind, config.metrics.port, lambda: (state(), {})))
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
