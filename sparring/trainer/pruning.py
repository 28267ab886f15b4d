"""Data pruning (Kaufmann et al.): which training examples are dropped for good, by which losses, and when."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparring.attacks import Attack, attack_from, frozen, iterate, perturbed
from sparring.attacks.gradient import cross_entropy, targets_of
from sparring.config import Config, PruningSettings
from sparring.data import Dataset, training_batch
from sparring.errors import NonFinite, SparringError, UsageError
from sparring.randomness import generator
from sparring.runs import Run, write_atomically
from sparring.trainer.learner import Learner
from sparring.trainer.plan import Pruning

log = logging.getLogger(__name__)
GoOn = Callable[[int], bool]  # given how many examples are attacked; False: stop


def planned(settings: PruningSettings, epochs: int, size: int) -> Pruning | None:
    """What the settings leave of `size` training examples, and from which of `epochs` epochs on; None: everything.

    Raises:
        UsageError: no epoch would come after it, or it would drop nothing or everything.
    """
    if settings.name == "none":
        return None
    if settings.epoch >= epochs:
        raise UsageError(
            f"pruning.epoch = {settings.epoch} of {epochs} epochs (train.epochs over train.replays): pruning.epoch < "
            f"{epochs} fails, no epoch would be trained on what is kept. Prune earlier or train longer."
        )
    dropped = _dropped(settings.share, size)
    if not 0 < dropped < size:
        raise UsageError(
            f"pruning.share = {settings.share:g} of {size} training examples drops {dropped} of them: it must drop "
            f"some and keep some. Change pruning.share, or set pruning.name to 'none'."
        )
    return Pruning(settings.epoch, size - dropped)


def kept_indices(name: str, share: float, losses: Tensor | None, size: int, random: torch.Generator) -> Tensor:
    """The examples that stay: int64, rising.

    Algorithm 1 of Kaufmann et al., but for low_high, which keeps the middle as section 4.4 says (the listing would keep
    the tails); an odd example is dropped from the high tail. `random` chooses, and orders equal losses: by position,
    whole classes of a sorted training set would go.

    Args:
        losses: float [size], for every method but `random`; no NaN among them.
    """
    dropped = _dropped(share, size)
    lowest = {"random": 0, "low": dropped, "high": 0, "low_high": dropped // 2}[name]
    order = torch.randperm(size, generator=random)
    if losses is not None:
        order = order[losses[order].argsort(stable=True)]
    return order[lowest : lowest + size - dropped].sort().values


def attacked_losses(
    config: Config, model: nn.Module, dataset: Dataset, attack: Attack, epoch: int, go_on: GoOn
) -> Tensor | None:
    """The cross-entropy of every example, attacked as `epoch` would train on it, under weights that do not change.

    Random numbers depend on (seed, epoch, chunk) alone.

    Args:
        go_on: asked before each attack step.

    Returns:
        float32 [N] on the CPU; None where `go_on` said no.
    """
    losses = torch.empty(len(dataset))
    for chunk, indices in enumerate(torch.split(torch.arange(len(dataset)), config.train.batch_size)):
        random = generator(config.train.seed, "prune", epoch, chunk)
        found = _losses_of(config, model, dataset, attack, epoch, indices, random, go_on)
        if found is None:
            return None
        losses[indices] = found.cpu()
    return losses


def _losses_of(
    config: Config,
    model: nn.Module,
    dataset: Dataset,
    attack: Attack,
    epoch: int,
    indices: Tensor,
    random: torch.Generator,
    go_on: GoOn,
) -> Tensor | None:
    """The same of one chunk, float32 [n] on the model's device."""
    device = next(model.parameters()).device
    x, labels = (part.to(device) for part in training_batch(config, dataset, indices, epoch))
    with frozen(model):
        with torch.no_grad():
            clean = model(x) if attack.loss == "kl" else None
        steps = iterate(model, x, targets_of(attack, labels, clean), attack, random)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                delta = end.value
                break
            if not go_on(int(indices[0])):
                return None
        with torch.no_grad():
            return cross_entropy(model(perturbed(x, delta)), labels)


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

    def decide(self, go_on: GoOn) -> Decision | None:
        """Decide by the present weights; None where `go_on`, which is asked before each attack step, said no.

        Raises:
            NonFinite: the loss of an example is not a number.
        """
        began, learner, settings = time.monotonic(), self.learner, self.settings
        size, losses, gradients = len(learner.dataset), None, 0
        if settings.name != "random":
            attack = self._attack()
            losses, gradients = self._losses(attack, go_on), size * attack.restarts * attack.steps
            if losses is None:
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
        write_atomically(self.run.kept, json.dumps(asdict(decision)) + "\n", durable=True)
        self.decision, self.pruning.kept = decision, torch.tensor(decision.indices)
        log.info("kept %d of %d examples (%s)", len(decision.indices), len(self.learner.dataset), decision.name)

    def _attack(self) -> Attack:
        config, now = self.learner.config, self.learner.controls()
        return attack_from(config.attack, now.epsilon, config.objective.name, now.pgd_steps)

    def _losses(self, attack: Attack, go_on: GoOn) -> Tensor | None:
        learner, epoch = self.learner, self.settings.epoch
        losses = attacked_losses(learner.config, learner.model, learner.dataset, attack, epoch, go_on)
        if losses is not None and bool(losses.isnan().any()):
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
            found = Decision(**json.loads(self.run.kept.read_text()))
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


def _dropped(share: float, size: int) -> int:
    return round(share * size)
