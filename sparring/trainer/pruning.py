"""Data pruning (Kaufmann et al.): which training examples are dropped for good, by which losses, and when."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from sparring.attacks import Attack, cross_entropy, frozen, iterate, perturbed, result_of, targets_of
from sparring.data import TrainingSet
from sparring.errors import NonFinite, SparringError
from sparring.randomness import generator
from sparring.runs import Run, digest_of, write_atomically
from sparring.trainer.learner import Learner
from sparring.trainer.plan import Pruning, dropped_of

log = logging.getLogger(__name__)
NEARLY_GONE = 0.1  # relative to what a class of average losses keeps


def kept_indices(name: str, share: float, losses: Tensor | None, size: int, random: torch.Generator) -> Tensor:
    """The examples that stay: int64, rising.

    Algorithm 1 of Kaufmann et al., but for low_high, which keeps the middle as section 4.4 says (the listing would keep
    the tails); an odd example is dropped from the high tail. `random` chooses, and orders equal losses: by position,
    whole classes of a sorted training set would go.

    Args:
        losses: float [size], for every method but `random`; no NaN among them.
    """
    dropped = dropped_of(share, size)
    lowest = {"random": 0, "low": dropped, "high": 0, "low_high": dropped // 2}[name]
    order = torch.randperm(size, generator=random)
    if losses is not None:
        order = order[losses[order].argsort(stable=True)]
    return order[lowest : lowest + size - dropped].sort().values


def attacked_losses(
    model: nn.Module,
    dataset: TrainingSet,
    attack: Attack,
    *,
    epoch: int,
    batch_size: int,
    helper: nn.Module | None = None,
    before_step: Callable[[int], object] = lambda done: None,
) -> Tensor:
    """float32 [N], on the CPU: the cross-entropy of every example, attacked as `epoch` would train on it.

    Random numbers depend on (the dataset's seed, epoch, chunk) alone. `before_step` is called with the number of
    examples done before each attack step; an exception from it ends the work.
    """
    device = next(model.parameters()).device
    losses = torch.empty(len(dataset))
    for chunk, indices in enumerate(torch.split(torch.arange(len(dataset)), batch_size)):
        x, labels = (part.to(device) for part in dataset.batch(indices, epoch))
        random, done = generator(dataset.seed, "prune", epoch, chunk), chunk * batch_size
        with frozen(model):
            steps = iterate(model, x, targets_of(model, x, labels, attack, helper), attack, random)
            delta = result_of(steps, _before_each(before_step, done))
            with torch.no_grad():
                losses[indices] = cross_entropy(model(perturbed(x, delta)), labels).cpu()
    return losses


def nearly_gone(labels: Tensor, kept: Tensor) -> list[str]:
    """A sentence for each class that lost nearly all of its examples. labels, kept: int64 [N], [n]; kept are places."""
    before = torch.bincount(labels)
    after = torch.bincount(labels[kept], minlength=len(before))
    gone = after < NEARLY_GONE * before * len(kept) / len(labels)
    return [
        f"Pruning has left class {label} {int(after[label])} of {int(before[label])} examples: no model can learn it "
        f"from so few."
        for label in gone.nonzero().flatten().tolist()
    ]


def _before_each(before_step: Callable[[int], object], done: int) -> Callable[[int], object]:
    return lambda step: before_step(done)


@dataclass(frozen=True)
class Decision:
    """kept.json: positions in the training set (`data.holdout` and `data.limit` taken off) that are kept, rising.

    `fingerprint` names that set, `step` the weights that decided; `gradients` and `seconds` are what it cost.
    """

    name: str
    share: float
    epoch: int
    step: int
    fingerprint: str
    gradients: int
    seconds: float
    indices: list[int]


class _Stopped(Exception):
    """The run is to stop before it is decided which examples are kept."""


class Pruner:
    """Decides once in the history of the weights which examples are kept; `decision`: what the plan goes by, if any."""

    def __init__(self, learner: Learner, run: Run) -> None:
        self.learner, self.run = learner, run
        self.settings, self.pruning = learner.config.pruning, learner.plan.pruning
        self.decision: Decision | None = None

    @property
    def undecided(self) -> int | None:
        """The epoch that must not begin before it is decided what is kept."""
        return self.pruning.epoch if self.pruning is not None and self.pruning.kept is None else None

    def decide(self, go_on: Callable[[int], bool]) -> Decision | None:
        """Decide by the present weights; None where the run is to stop.

        go_on: called with the number of examples done before each attack step; False where the run is to stop.

        Raises:
            NonFinite: the loss of an example is not a number.
        """
        began, learner, settings = time.monotonic(), self.learner, self.settings
        size, losses, gradients = len(learner.dataset), None, 0
        if settings.name != "random":
            attack = self._attack()
            try:
                losses, gradients = self._losses(attack, go_on), size * attack.restarts * attack.steps
            except _Stopped:
                return None
        random = generator(learner.config.train.seed, "kept", settings.epoch)
        return Decision(
            **settings.model_dump(),
            step=learner.step,
            fingerprint=learner.dataset.fingerprint,
            gradients=gradients,
            indices=kept_indices(settings.name, settings.share, losses, size, random).tolist(),
            seconds=time.monotonic() - began,
        )

    def keep(self, decision: Decision) -> None:
        """Write kept.json, which is on disk when this returns, and apply it to the plan."""
        if self.pruning is None:
            raise SparringError("pruning.name = 'none': there is nothing to keep a decision for.")
        content = {**asdict(decision), "digest": _digest(decision)}
        write_atomically(self.run.kept, json.dumps(content) + "\n", durable=True)
        self.decision, self.pruning.kept = decision, torch.tensor(decision.indices)
        log.info("kept %d of %d examples (%s)", len(decision.indices), len(self.learner.dataset), decision.name)
        for doubt in nearly_gone(self.learner.dataset.labels, self.pruning.kept):
            log.warning(doubt)

    def _attack(self) -> Attack:
        attack = self.learner.context.attack_now(self.learner.controls())
        if not isinstance(attack, Attack):
            raise SparringError(f"pruning.name = {self.settings.name!r}: attack {attack.name!r} has no losses to rank.")
        return attack

    def _losses(self, attack: Attack, go_on: Callable[[int], bool]) -> Tensor:
        learner = self.learner

        def stop_or_go_on(done: int) -> None:
            if not go_on(done):
                raise _Stopped

        losses = attacked_losses(
            learner.model,
            learner.dataset,
            attack,
            epoch=self.settings.epoch,
            batch_size=learner.config.train.batch_size,
            helper=learner.helper,
            before_step=stop_or_go_on,
        )
        if bool(losses.isnan().any()):
            raise NonFinite(f"the loss of {int(losses.isnan().sum())} training examples is not a number at pruning.")
        return losses

    def recall(self, step: int) -> Decision | None:
        """The decision that weights of `step` steps continue from; None where they have yet to decide.

        One of later weights is forgotten: they did not survive.

        Raises:
            SparringError: kept.json is damaged, or of other settings or data.
        """
        if self.pruning is None:
            return None
        self.decision = self.pruning.kept = None
        try:
            found = _read(json.loads(self.run.kept.read_text()), len(self.learner.dataset))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise SparringError(f"{self.run.kept} is damaged ({error}). Put it back, or start a new run.") from error
        if found.step > step:
            self.run.kept.unlink()
            return None
        self._require_ours(found, self.pruning)
        self.decision, self.pruning.kept = found, torch.tensor(found.indices)
        return found

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: how many examples are kept, None before that is decided."""
        return {"kept": None if self.decision is None else len(self.decision.indices)}

    def restore(self, state: dict[str, Any] | None) -> None:
        """Continue with the learner's weights; see `recall`.

        Raises:
            SparringError: kept.json is missing, though these weights were trained on what it keeps; or as `recall`.
        """
        kept = None if state is None else state["kept"]
        if self.recall(self.learner.step) is None and kept is not None:
            raise SparringError(
                f"{self.run.kept} is gone, and with it which {kept} training examples pruning has kept. Put it back, "
                f"or start a new run."
            )

    def _require_ours(self, found: Decision, pruning: Pruning) -> None:
        settings, fingerprint = self.settings, self.learner.dataset.fingerprint
        if (found.name, found.share, found.epoch, found.fingerprint) == (
            settings.name,
            settings.share,
            settings.epoch,
            fingerprint,
        ) and len(found.indices) == pruning.size:
            return
        raise SparringError(
            f"{self.run.kept} keeps {len(found.indices)} examples of training set {found.fingerprint}, by pruning.name "
            f"= {found.name!r}, share = {found.share:g}, epoch = {found.epoch}; this run keeps {pruning.size} of "
            f"{fingerprint}, by {settings.name!r}, {settings.share:g}, {settings.epoch}. Put the run's own file back, "
            f"or start a new run."
        )


def _read(content: Any, examples: int) -> Decision:
    """The decision that kept.json holds; that of older versions has no digest.

    Raises:
        ValueError, TypeError: no run has written it, with the reason.
    """
    values = dict(content)
    digest = values.pop("digest", None)
    found = Decision(**values)
    _require_sound(found, examples)
    if digest is not None and digest != _digest(found):
        raise ValueError("it was altered after it was written, by its digest")
    return found


def _digest(decision: Decision) -> str:
    return digest_of(json.dumps(asdict(decision), sort_keys=True))


def _require_sound(found: Decision, examples: int) -> None:
    """Refuse what no run has written.

    Raises:
        ValueError: with the reason.
    """
    if not all(isinstance(value, str) for value in (found.name, found.fingerprint)):
        raise ValueError("its name or fingerprint is no text")
    numbers = found.share, found.epoch, found.step, found.gradients, found.seconds
    if not all(type(value) in (int, float) for value in numbers) or type(found.step) is not int:
        raise ValueError("one of its numbers is none")
    kept = found.indices
    if not isinstance(kept, list) or not all(type(index) is int for index in kept):
        raise ValueError("its indices are not whole numbers")
    if any(before >= after for before, after in pairwise([-1, *kept, examples])):
        raise ValueError(f"its indices do not rise from 0 to below {examples}")
