"""One optimizer step on attacked examples: the part of training that every engine shares."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from sparring.attacks import (
    Attack,
    AttackRecord,
    GradientCheck,
    WarmStart,
    frozen,
    iterate,
    perturbed,
    result_of,
    targets_of,
)
from sparring.attacks.norms import random_start
from sparring.config import bound
from sparring.errors import NonFinite, SparringError
from sparring.models.forward import for_training
from sparring.objectives import Batch
from sparring.objectives.awp import perturbed_weights, weight_perturbation
from sparring.queue.messages import Controls, Key, Shard
from sparring.randomness import generator, seeded
from sparring.trainer import averaging
from sparring.trainer.experiment import Experiment
from sparring.trainer.optimizers import make_optimizer
from sparring.trainer.peers import Alone, Peers
from sparring.trainer.schedules import learning_rate, warmed_up

MOVEMENT = "movement of the weights"
LEAST_SCALE = 1.0  # of the loss in fp16: below it the gradients themselves overflow


@dataclass(frozen=True)
class StepResult:
    """Mean loss of a step, and how many attacked examples the weights before it classified correctly."""

    loss: float
    correct: int
    examples: int
    learning_rate: float
    skipped: bool = False  # the scaled fp16 gradient overflowed, the weights are as they were
    no_gradient: bool = False  # that of every weight was exactly zero


class Learner:
    """Model, optimizer and the number of steps made, `step`; `average`: the EMA of the weights, where there is one."""

    def __init__(self, experiment: Experiment, device: torch.device) -> None:
        self.experiment, self.config, self.plan = experiment, experiment.config, experiment.plan
        self.dataset, self.objective, self.device = experiment.training, experiment.objective, device
        self.model = for_training(experiment.model.to(device), self.config.model)
        self.average = (
            copy.deepcopy(experiment.model).requires_grad_(False) if self.config.train.ema is not None else None
        )
        self._place_helper()
        self.context = experiment.context(self.model)
        self.optimizer = make_optimizer(self.config.optimizer, self.trained)
        self.rate_at = learning_rate(self.config.schedule, self.config.optimizer.lr)
        self.scaler = self._fresh_scaler()
        self.step = 0
        self.changing = False  # in the middle of a step, so that the weights are none of a run
        self.robust_share = 0.0
        self.rate_scale = 1.0
        self.pgd_until = 0
        self.peers: Peers = Alone()
        self.before_change: Callable[[], None] = lambda: None  # called before a step changes weights or buffers
        self._path = {0: 0.0}
        self._before = self._flat()

    @property
    def helper(self) -> nn.Module | None:
        """The objective's network, where it has one."""
        return None if self.experiment.helper is None else self.experiment.helper.network

    @property
    def trained(self) -> nn.Module:
        """What the optimizer changes: the model, and a helper that is trained beside it."""
        helper = self.experiment.helper
        return self.model if helper is None or not helper.trained else nn.ModuleList([self.model, helper.network])

    @property
    def networks(self) -> dict[str, nn.Module]:
        """What a checkpoint keeps, by name: the model, the EMA of its weights, a helper that is trained beside it."""
        helper = self.experiment.helper
        trained = None if helper is None or not helper.trained else helper.network
        named = {"model": self.model, "ema": self.average, "helper": trained}
        return {name: network for name, network in named.items() if network is not None}

    def drift(self, version: int, until: int) -> float:
        """How far the weights moved from `version` to `until` (path length over their norm); 0 where it is unknown."""
        if not {version, until} <= self._path.keys():
            return 0.0
        return (self._path[until] - self._path[version]) / max(float(self._before.norm()), 1e-12)

    def controls(self) -> Controls:
        """The controls that go with the present weights."""
        pgd_steps = self.config.guard.overfitting_steps if self.step < self.pgd_until else 0
        return Controls(self.epsilon(), self.robust_share, pgd_steps)

    def epsilon(self, step: int | None = None) -> float:
        """ε at `step` (now by default), warmed up."""
        at = self.step if step is None else step
        return warmed_up(self.experiment.attack.epsilon, at, self.plan.warmup_steps(self.config.attack))

    def batch(self, shards: Sequence[Shard], weights: Tensor | None = None) -> Batch:
        """The shards' examples put together, on the model's device.

        weights: float32 [N] with mean 1, how much each example counts (None: all the same).

        Raises:
            SparringError: a worker has other data, or made something else than this recipe's attack makes.
        """
        x, y = self.clean(*shards)
        weights = None if weights is None else weights.to(self.device)
        if self.experiment.attack.makes_views:
            return Batch(x, x, y, weights, views=self._views(shards, x))
        x_adv = perturbed(x, torch.cat([shard.delta.to(self.device) for shard in shards]))
        return Batch(x, x_adv, y, weights, noise=self._noise(shards, x))

    def _noise(self, shards: Sequence[Shard], x: Tensor) -> Tensor | None:
        """See `Batch.noise`: in the ball of each shard's attack; it depends on the ticket alone."""
        if not self.objective.takes_noise:
            return None
        seed, attack = self.config.train.seed, self.experiment.attack
        parts = torch.split(x, [len(shard.labels) for shard in shards])
        drawn = [
            random_start(part, attack.norm, shard.attack.epsilon, generator(seed, "noise", *shard.key[:2]))
            for part, shard in zip(parts, shards, strict=True)
        ]
        return torch.cat(drawn)

    def _views(self, shards: Sequence[Shard], x: Tensor) -> Tensor:
        """float32 [2, N, C, H, W] in [0, 1]."""
        views = []
        for shard in shards:
            if shard.views is None or shard.views.shape[1:] != (len(shard.labels), *x.shape[1:]):
                raise SparringError(
                    f"shard {shard.key} of {shard.worker or 'a worker'} has no views of images of shape "
                    f"{tuple(x.shape[1:])}, which attack.name = 'augmix' needs. Give every host the same files."
                )
            views.append(shard.views.cpu().float().div_(255))  # on the CPU as `data.batch` does: equal stays equal
        return torch.cat(views, dim=1).to(self.device)

    def clean(self, *shards: Shard) -> tuple[Tensor, Tensor]:
        """The examples of a step's shards without the perturbation.

        Raises:
            SparringError: a worker has another attack than we, or other labels and so other data.
        """
        keys = [shard.key for shard in shards]
        x, y = self.examples(*keys)
        ours = torch.split(y.cpu(), [len(self.plan.indices(key.epoch, key.number)) for key in keys])
        for shard, labels in zip(shards, ours, strict=True):
            self._require_own(shard)
            if not torch.equal(labels, shard.labels.cpu()):
                raise SparringError(
                    f"shard {shard.key} of {shard.worker or 'a worker'} carries other labels than data.name = "
                    f"{self.config.data.name!r} has here: the hosts' training sets differ. Give every host the same "
                    f"files."
                )
        return x, y

    def knows(self, made: AttackRecord) -> bool:
        """Whether this recipe's attack, at an ε up to its full one, or a guard's in its place can have made a shard."""
        attack = self.experiment.attack
        return made.epsilon <= attack.epsilon and attack.as_recorded(made).record == made

    def _require_own(self, shard: Shard) -> None:
        attack, made = self.experiment.attack, shard.attack
        if not self.knows(made):
            raise SparringError(
                f"shard {shard.key} of {shard.worker or 'a worker'} was made by {made}, attack.name = "
                f"{self.config.attack.name!r} is {attack.record} here. Give every host the same recipe, version and "
                f"files."
            )

    def examples(self, *keys: Key) -> tuple[Tensor, Tensor]:
        """Images, float32 [N, C, H, W] in [0, 1], and labels, int64 [N], of tickets of one epoch."""
        indices = torch.tensor([index for key in keys for index in self.plan.indices(key.epoch, key.number)])
        x, y = self.dataset.batch(indices, keys[0].epoch)
        return x.to(self.device), y.to(self.device)

    def refresh(self, shard: Shard, steps: int) -> Shard:
        """The shard with `steps` more attack steps under the present weights (docs/architecture.md).

        Their gradients without use are counted too; an example that had one before may count twice.
        """
        if not isinstance(self.experiment.attack, Attack):
            return shard
        x, y = self.clean(shard)
        made_by = self.experiment.attack.as_recorded(shard.attack)
        attack = replace(made_by, restarts=1)  # several attempts would all begin at the shard's δ
        delta = shard.delta.to(self.device)
        counts = torch.full_like(y, steps)
        if self.experiment.allocator is not None:
            counts[~delta.flatten(1).any(1)] = 0  # what was left clean stays clean
        random = generator(self.config.train.seed, "refresh", shard.key.epoch, shard.key.number)
        start, check = WarmStart(delta, torch.ones(len(y), dtype=torch.bool)), GradientCheck(len(y), x.device)
        with frozen(self.model):
            targets = targets_of(self.model, x, y, attack, self.helper)
            made = iterate(self.model, x, targets, attack, random, start=start, step_counts=counts, check=check)
            more = result_of(made)
        return replace(
            shard,
            delta=more,
            gradients=shard.gradients + int(counts.sum()),
            zero_gradients=min(len(y), shard.zero_gradients + int(check.zero.sum())),
            non_finite_gradients=min(len(y), shard.non_finite_gradients + int(check.non_finite.sum())),
        )

    def learn(self, batch: Batch, epoch: int) -> StepResult:
        """One step on a batch: forward, backward, optimizer step.

        Raises:
            NonFinite: the loss, its gradient or a new weight is not finite.
        """
        with self.update(batch, epoch) as update:
            loss, correct = update.forward()
            update.backward(loss, correct)
            update.optimizer_step()
        return update.result

    @contextmanager
    def update(self, batch: Batch, epoch: int) -> Iterator[Update]:
        """Everything around a step: the schedule's rate, train mode, the step's own random numbers (for dropout),
        AWP's weights, then the EMA and F_R."""
        rate = self._set_rate()
        self.before_change()
        self.changing = True
        self.trained.train()
        update = Update(self, batch, rate)
        drawn = seeded(self.device, self.config.train.seed, "step", self.step, self.peers.rank)
        with drawn, perturbed_weights(self.model, self._weight_perturbation(update, epoch)):
            yield update
        self.peers.even_out()
        self.require_finite(MOVEMENT, self._moved(), rate)
        self.step += 1
        self._average()
        if self.experiment.allocator is not None:
            accuracy = update.result.correct / update.result.examples
            self.robust_share = self.experiment.allocator.updated(self.robust_share, accuracy)
        self.changing = False

    def _set_rate(self) -> float:
        total = max(self.plan.total_steps, 1)  # tickets that were set aside may add steps
        rate = self.rate_at(min(self.step, total - 1) / total) * self.rate_scale
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _weight_perturbation(self, update: Update, epoch: int) -> dict[str, Tensor]:
        """What AWP adds to the weights in this step; nothing where it is off."""
        settings = self.config.objective
        if settings.awp_gamma == 0 or epoch < settings.awp_warmup_epochs:
            return {}
        return weight_perturbation(
            self.model, lambda: update.objective()[0] * self.peers.share, settings.awp_gamma, self.peers.mean
        )

    def _place_helper(self) -> None:
        """On the model's device; one that is not trained stays frozen and in eval mode."""
        helper = self.experiment.helper
        if helper is not None:
            helper.network.to(self.device)
            if not helper.trained:
                helper.network.eval().requires_grad_(False)

    def _average(self) -> None:
        """Let the EMA follow the step just made."""
        decay = self.config.train.ema
        if self.average is not None and decay is not None:
            decay = averaging.decay_at(decay, self.step, self.plan.total_steps)
            averaging.update(self.average, self.model, decay)

    def _fresh_scaler(self) -> torch.amp.GradScaler:
        return torch.amp.GradScaler(self.device.type, enabled=self.config.model.precision == "fp16")

    def require_finite(self, what: str, value: float, rate: float) -> None:
        """Raise NonFinite if `value` is not finite."""
        if not isfinite(value):
            raise NonFinite(f"{what} {value} at step {self.step} (learning rate {rate:.3g}). {self._remedy(what)}")

    def _remedy(self, what: str) -> str:
        """What may help. Before the first update the learning rate has changed nothing."""
        settings = self.config
        if self.step > 0 or what == MOVEMENT:
            return f"Lower optimizer.lr = {settings.optimizer.lr:g} or set train.gradient_clip."
        fp16 = " or set model.precision to 'bf16' or 'fp32'" if settings.model.precision == "fp16" else ""
        return (
            f"No step has been made, so this is not the learning rate: look in the model and the objective for a "
            f"division, root or logarithm of 0, or an overflow{fp16}."
        )

    def restart(self, initial: nn.Module) -> None:
        """Begin again from the weights of `initial`."""
        for model in (self.model, self.average):
            if model is not None:
                model.load_state_dict(initial.state_dict())
        self.optimizer = make_optimizer(self.config.optimizer, self.trained)
        self.scaler = self._fresh_scaler()
        self.step, self.robust_share, self.changing = 0, 0.0, False
        self._path, self._before = {0: 0.0}, self._flat()

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the networks: what `restore` takes."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "robust_share": self.robust_share,
            "scaler": self.scaler.state_dict(),
        }

    def restore(
        self,
        step: int,
        optimizer: dict[str, Any],
        robust_share: float = 0.0,
        scaler: dict[str, Any] | None = None,
    ) -> None:
        """Continue at `step`; the weights are in the model already, and their average in `average`."""
        self.optimizer.load_state_dict(optimizer)
        self.scaler = self._fresh_scaler()  # the old one may be in the middle of a step that failed
        if scaler:
            self.scaler.load_state_dict(scaler)
        self.step, self.robust_share, self.changing = step, robust_share, False
        self._path, self._before = {step: 0.0}, self._flat()

    def _flat(self) -> Tensor:
        return torch.cat([parameter.detach().reshape(-1) for parameter in self.model.parameters()])

    def _moved(self) -> float:
        """How far the step under way has moved the weights; noted for `drift`."""
        now = self._flat()
        moved = float((now - self._before).norm())
        self._path[self.step + 1] = self._path[self.step] + moved
        self._path.pop(self.step - bound(self.config) - 1, None)  # nothing staler is trained on
        self._before = now
        return moved


class Update:
    """One optimizer step in the making; see `Learner.update`."""

    def __init__(self, learner: Learner, batch: Batch, rate: float) -> None:
        self.learner, self.batch, self.rate = learner, batch, rate
        self.result = StepResult(0.0, 0, 0, rate)

    def objective(self) -> tuple[Tensor, Tensor]:
        """The objective's loss, and which attacked examples are classified correctly, bool [N]."""
        return self.learner.objective(self.learner.model, self.batch, self.learner.helper)

    def forward(self) -> tuple[Tensor, Tensor]:
        """The same, seen by all who share the step (`Peers`)."""
        return self.learner.peers.forward(self.objective)

    def backward(self, loss: Tensor, correct: Tensor, *, part: int = 0, parts: int = 1) -> None:
        """Compute the gradients of the weights, and the totals of the whole step.

        With several `parts` the gradient is the mean of theirs, and the totals are those of the last; for one process.

        Raises:
            NonFinite: the loss is not finite.
        """
        learner = self.learner
        if part == 0:
            learner.optimizer.zero_grad(set_to_none=True)
        learner.scaler.scale(loss * (learner.peers.share / parts)).backward()  # type: ignore[no-untyped-call]
        learner.peers.combine(learner.trained.parameters())
        total = learner.peers.totals(loss, correct)
        learner.require_finite("loss", total.loss, self.rate)
        self.result = StepResult(*total, self.rate)

    def optimizer_step(self) -> None:
        """One optimizer step; it is skipped if gradients overflow in fp16, and the loss scale is halved.

        Raises:
            NonFinite: the gradient is not finite, in fp16 even at the least scale.
        """
        learner = self.learner
        learner.scaler.unscale_(learner.optimizer)
        clip = learner.config.train.gradient_clip
        parameters = learner.trained.parameters()
        norm = float(nn.utils.clip_grad_norm_(parameters, float("inf") if clip is None else clip))
        made = isfinite(norm)
        if not made and not (learner.scaler.is_enabled() and learner.scaler.get_scale() > LEAST_SCALE):
            learner.require_finite("gradient norm", norm, self.rate)
        if made:
            learner.optimizer.step()
        learner.scaler.update()
        self.result = replace(self.result, skipped=not made, no_gradient=norm == 0)
