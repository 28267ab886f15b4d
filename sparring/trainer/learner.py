"""One optimizer step on attacked examples: the part of training that every engine shares."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from sparring.allocators.bullettrain import updated_robust_share
from sparring.attacks import frozen, iterate, perturbed, warmed_up
from sparring.attacks.gradient import attack_within, targets_of
from sparring.config import Config, OptimizerSettings, passes_of
from sparring.data import TrainingSet
from sparring.errors import NonFinite, SparringError
from sparring.models.forward import for_training
from sparring.objectives.awp import moved, weight_perturbation
from sparring.objectives.passes import augmix_loss, training_loss
from sparring.queue.messages import Controls, Key, Shard
from sparring.randomness import generator
from sparring.trainer import averaging
from sparring.trainer.peers import Alone, Objective, Peers
from sparring.trainer.plan import Plan
from sparring.trainer.schedules import learning_rate

KEPT_VERSIONS = 10_000  # how far back drift is known
LEAST_SCALE = 1.0  # of the loss in fp16: below it the gradients themselves overflow
NORMALISATION = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


@dataclass(frozen=True)
class StepResult:
    """What a step tells: mean loss, how many attacked examples the weights before it classified right."""

    loss: float
    correct: int
    examples: int
    learning_rate: float
    skipped: bool = False  # the scaled fp16 gradient overflowed, the weights are as they were


def make_optimizer(settings: OptimizerSettings, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of the settings; its rate is set before every step."""
    parameters = decay_groups(model, settings.decay_norm)
    if settings.name == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=settings.lr,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
            weight_decay=settings.weight_decay,
            fused=True,
        )
    kind = torch.optim.Adam if settings.name == "adam" else torch.optim.AdamW
    return kind(
        parameters,
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        weight_decay=settings.weight_decay,
        fused=True,
    )


def decay_groups(model: nn.Module, decay_norm: bool) -> list[dict[str, Any]]:
    """The parameters as an optimizer takes them: all in one group, or those of normalisation layers apart, undecayed.

    That is what the ImageNet code of Wong et al. leaves out (parameters of modules named BatchNorm, 5.3); biases
    of convolutions and linear layers decay there too, and its CIFAR code decays everything.
    """
    if decay_norm:
        return [{"params": list(model.parameters())}]
    layers = [module for module in model.modules() if isinstance(module, NORMALISATION)]
    undecayed = {id(parameter) for layer in layers for parameter in layer.parameters()}
    return [
        {"params": [each for each in model.parameters() if id(each) not in undecayed]},
        {"params": [each for each in model.parameters() if id(each) in undecayed], "weight_decay": 0.0},
    ]


class Learner:
    """Model, optimizer and the number of steps made, `step`; `average`: the EMA of the weights, where there is one."""

    def __init__(
        self, config: Config, model: nn.Module, dataset: TrainingSet, plan: Plan, device: torch.device
    ) -> None:
        self.config, self.plan, self.dataset, self.device = config, plan, dataset, device
        self.model = for_training(model.to(device), config.model)
        self.average = copy.deepcopy(model).requires_grad_(False) if config.train.ema is not None else None
        self.optimizer = make_optimizer(config.optimizer, self.model)
        self.rate_at = learning_rate(config.schedule, config.optimizer.lr)
        self.scaler = self._fresh_scaler()
        self.step = 0
        self.robust_share = 0.0
        self.rate_scale = 1.0
        self.pgd_until = 0
        self.peers: Peers = Alone()
        self.before_change: Callable[[], None] = lambda: None  # called before a step changes weights or buffers
        self._path = {0: 0.0}
        self._before = self._flat()

    def drift(self, version: int) -> float:
        """How far the weights have moved since `version` (path length over their norm); 0 where it is unknown."""
        moved = self._path[self.step] - self._path.get(version, self._path[self.step])
        return moved / max(float(self._before.norm()), 1e-12)

    def controls(self) -> Controls:
        """What rides along with the present weights."""
        pgd_steps = self.config.guard.overfitting_steps if self.step < self.pgd_until else 0
        return Controls(self.epsilon(), self.robust_share, pgd_steps)

    def epsilon(self, step: int | None = None) -> float:
        """ε at `step` (now by default), warmed up; 0 where nothing is attacked."""
        attack = self.config.attack
        if attack.name == "augmix":
            return 0.0
        at = self.step if step is None else step
        return warmed_up(attack.epsilon, at, self.plan.steps_until(attack.warmup_epochs))

    def attacked(self, shards: Sequence[Shard]) -> tuple[Tensor, Tensor, Tensor]:
        """The shards' examples: clean and perturbed, float32 [N, C, H, W] in [0, 1] each, and labels, int64 [N]."""
        x, y = self.clean(*shards)
        return x, perturbed(x, torch.cat([shard.delta.to(self.device) for shard in shards])), y

    def augmented(self, shards: Sequence[Shard]) -> tuple[Tensor, Tensor, Tensor]:
        """The shards' examples: clean, float32 [N, C, H, W] in [0, 1], views, [2, N, C, H, W], and labels, int64 [N].

        Raises:
            SparringError: a shard has no views, or views of images of another shape.
        """
        x, y = self.clean(*shards)
        views = []
        for shard in shards:
            if shard.views is None or shard.views.shape[1:] != (len(shard.labels), *x.shape[1:]):
                raise SparringError(
                    f"shard {shard.key} of {shard.worker or 'a worker'} has no views of images of shape "
                    f"{tuple(x.shape[1:])}, which attack.name = 'augmix' needs. Give every host the same files."
                )
            views.append(shard.views.cpu().float().div_(255))  # on the CPU as `data.batch` does: equal stays equal
        return x, torch.cat(views, dim=1).to(self.device), y

    def clean(self, *shards: Shard) -> tuple[Tensor, Tensor]:
        """The examples of a step's shards without the perturbation.

        Raises:
            SparringError: a worker's labels are others than ours, so its data are.
        """
        keys = [shard.key for shard in shards]
        x, y = self.examples(*keys)
        ours = torch.split(y.cpu(), [len(self.plan.indices(key.epoch, key.number)) for key in keys])
        for shard, labels in zip(shards, ours, strict=True):
            if not torch.equal(labels, shard.labels.cpu()):
                raise SparringError(
                    f"shard {shard.key} of {shard.worker or 'a worker'} carries other labels than data.name = "
                    f"{self.config.data.name!r} has here: the hosts' training sets differ. Give every host the same "
                    f"files."
                )
        return x, y

    def examples(self, *keys: Key) -> tuple[Tensor, Tensor]:
        """Images, float32 [N, C, H, W] in [0, 1], and labels, int64 [N], of tickets of one epoch."""
        indices = torch.tensor([index for key in keys for index in self.plan.indices(key.epoch, key.number)])
        x, y = self.dataset.batch(indices, keys[0].epoch)
        return x.to(self.device), y.to(self.device)

    def refresh(self, shard: Shard, steps: int) -> Shard:
        """The shard with `steps` more attack steps under the present weights (docs/architecture.md)."""
        x, y = self.clean(shard)
        attack = attack_within(self.config.attack, shard.epsilon, self.config.objective.name)
        delta = shard.delta.to(self.device)
        counts = torch.full_like(y, steps)
        if self.config.allocator.name != "none":
            counts[~delta.flatten(1).any(1)] = 0  # what was left clean stays clean
        random = generator(self.config.train.seed, "refresh", shard.key.epoch, shard.key.number)
        with frozen(self.model):
            with torch.no_grad():
                clean = self.model(x) if attack.loss == "kl" else None
            targets = targets_of(attack, y, clean)
            more = iterate(self.model, x, targets, attack, random, start=delta, step_counts=counts)
            while True:
                try:
                    next(more)
                except StopIteration as done:
                    return Shard(
                        **{
                            **shard.__dict__,
                            "delta": done.value,
                            "gradients": shard.gradients + int(counts.sum()),
                        }
                    )

    def learn(self, shards: Sequence[Shard], weights: Tensor | None = None) -> StepResult:
        """Train one step on the shards put together: one forward pass, the mean loss over their examples.

        `weights`: float32 [N] with mean 1, how much each example counts (AugMix's views all count the same).

        Raises:
            NonFinite: loss, gradient or the new weights are no numbers.
        """
        epoch = shards[0].key.epoch
        if self.config.objective.name == "augmix":
            x, views, y = self.augmented(shards)
            return self._step(lambda: self._divergence(x, views, y), epoch)
        return self.train_on(*self.attacked(shards), epoch, weights)

    def train_on(self, x: Tensor, x_adv: Tensor, y: Tensor, epoch: int, weights: Tensor | None = None) -> StepResult:
        """The same on clean images, attacked ones (float32 [N, C, H, W] in [0, 1] each) and labels (int64 [N]).

        An `x_adv` that requires a gradient gets that of the mean loss, by the same pass.
        """
        weights = None if weights is None else weights.to(self.device)
        return self._step(lambda: self._objective(x, x_adv, y, weights), epoch)

    def _step(self, objective: Objective, epoch: int) -> StepResult:
        rate = self.rate_at(self.step / max(self.plan.total_steps, 1)) * self.rate_scale
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.before_change()
        self.model.train()
        with moved(self.model, self._weight_perturbation(objective, epoch)):
            loss, right = self.peers.passed(objective)
            self.optimizer.zero_grad(set_to_none=True)
            self.scaler.scale(loss * self.peers.share).backward()  # type: ignore[no-untyped-call]
            total = self.peers.totals(loss, right)
            self._require_finite("loss", total.loss, rate)
            made = self._optimize(rate)
        self._require_finite("movement of the weights", self._moved(), rate)
        self.step += 1
        self._average()
        self.robust_share = updated_robust_share(
            self.robust_share, total.correct / total.examples, self.config.allocator
        )
        return StepResult(*total, rate, skipped=not made)

    def _objective(self, x: Tensor, x_adv: Tensor, y: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        """The objective's loss, and which attacked examples were classified right, bool [N]."""
        objective = self.config.objective
        assert objective.name != "augmix", "that one takes views"
        loss, logits = training_loss(
            objective.name,
            self.model,
            x,
            x_adv,
            y,
            beta=objective.beta,
            passes=passes_of(self.config),
            label_smoothing=objective.label_smoothing,
            weights=weights,
        )
        return loss, logits.argmax(1) == y

    def _divergence(self, x: Tensor, views: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """AugMix's loss, and of which examples both views were classified right, bool [N]."""
        changed = (views != x).any(0).flatten(1).any(1)
        if passes_of(self.config) == "reference":
            changed[:] = True  # the authors pass all three batches whole
        return augmix_loss(self.model, x, views, y, weight=self.config.augmix.weight, augmented=changed)

    def _weight_perturbation(self, objective: Objective, epoch: int) -> dict[str, Tensor]:
        """What AWP moves the weights by in this step; nothing where it is off."""
        settings = self.config.objective
        if settings.awp_gamma == 0 or epoch < settings.awp_warmup_epochs:
            return {}
        return weight_perturbation(self.model, lambda: objective()[0], settings.awp_gamma)

    def _optimize(self, rate: float) -> bool:
        """One optimizer step along the gradients that are there; False: they overflowed in fp16, and it was skipped.

        The scale is halved then and the next step goes on (torch.amp.GradScaler); with fp32 and bf16 it does nothing.

        Raises:
            NonFinite: the gradient is no number, in fp16 at the least scale too.
        """
        self.scaler.unscale_(self.optimizer)
        clip = self.config.train.gradient_clip
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), float("inf") if clip is None else clip))
        made = isfinite(norm)
        if not made and not (self.scaler.is_enabled() and self.scaler.get_scale() > LEAST_SCALE):
            self._require_finite("gradient norm", norm, rate)
        if made:
            self.optimizer.step()
        self.scaler.update()
        return made

    def _average(self) -> None:
        """Let the EMA follow the step just made."""
        decay = self.config.train.ema
        if self.average is not None and decay is not None:
            decay = averaging.decay_at(decay, self.step, self.plan.total_steps)
            averaging.update(self.average, self.model, decay)

    def _fresh_scaler(self) -> torch.amp.GradScaler:
        return torch.amp.GradScaler(self.device.type, enabled=self.config.model.precision == "fp16")

    def _require_finite(self, what: str, value: float, rate: float) -> None:
        if not isfinite(value):
            raise NonFinite(
                f"{what} {value} at step {self.step} (learning rate {rate:.3g}). Lower optimizer.lr = "
                f"{self.config.optimizer.lr:g} or set train.gradient_clip."
            )

    def restart(self, initial: nn.Module) -> None:
        """Begin again from the weights of `initial`."""
        for model in (self.model, self.average):
            if model is not None:
                model.load_state_dict(initial.state_dict())
        self.optimizer = make_optimizer(self.config.optimizer, self.model)
        self.scaler = self._fresh_scaler()
        self.step, self.robust_share = 0, 0.0
        self._path, self._before = {0: 0.0}, self._flat()

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
        self.step, self.robust_share = step, robust_share
        self._path, self._before = {step: 0.0}, self._flat()

    def _flat(self) -> Tensor:
        return torch.cat([parameter.detach().reshape(-1) for parameter in self.model.parameters()])

    def _moved(self) -> float:
        """How far the step under way has moved the weights; noted for `drift`."""
        now = self._flat()
        moved = float((now - self._before).norm())
        self._path[self.step + 1] = self._path[self.step] + moved
        self._path.pop(self.step - KEPT_VERSIONS, None)
        self._before = now
        return moved
