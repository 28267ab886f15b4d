"""YOPO-m-n, You Only Propagate Once (Zhang et al. 2019): engine sync with yopo.passes = m, yopo.inner_steps = n.

The network is g(f₀(x)), f₀ its first layer. For every batch of B examples:

    δ = start of the attack (uniform in the ball)
    m times:
        one full pass at x + δ: the loss ℓ, its gradient U by the weights, and p = ∂ℓ/∂f₀(x + δ)
        n times: δ ← into the image, into the ball (δ + α·sign of ∂⟨p, f₀(x + δ)⟩/∂δ), with p held fixed
        add ∂⟨p, f₀(x + δ)⟩/∂θ₀ to the gradient of the first layer's weights θ₀
    one optimizer step with the mean of the m gradients

This is the loop of the authors' code for the cross-entropy (pgd-at), in train mode. Their code adds up the m gradients
and divides the learning rate by m, where the mean is taken here; so with SGD a weight decay w here is theirs of m·w. θ₀
gets two gradients a pass, as in the code: without the second, the n steps after the last pass would be lost.

With another objective the loop is that of their TRADES-YOPO: the m passes, in eval mode, make the perturbation alone, p
being that of the loss which the attack maximises. Then one ordinary step trains on it.

Under L2 a step follows the normalised gradient, as in PGD; the authors have L∞ alone. If f₀ is affine (a convolution),
the n steps of a pass have the same gradient.

Run it: sparring train recipes/mnist-yopo.toml
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from sparring.attacks import Attack, GradientCheck, frozen, input_gradient, perturbed, targets_of
from sparring.attacks.gradients import finite
from sparring.attacks.norms import precise
from sparring.errors import SparringError
from sparring.models.first_layer import FirstLayer, first_layer
from sparring.models.forward import plain
from sparring.objectives import Batch
from sparring.queue.messages import Key, Shard
from sparring.randomness import generator
from sparring.trainer.checkpoints import Checkpoint
from sparring.trainer.experiment import Experiment
from sparring.trainer.learner import Learner
from sparring.trainer.session import Session


def run(session: Session, experiment: Experiment, resumed: Checkpoint | None) -> str:
    """Train to the end of the run; returns how it ended."""
    layer = _first_layer(session.learner)
    train = _attack_and_train if experiment.objective.on_attacked_alone else _attack_then_train
    for step in session.steps(resumed):
        train(session, layer, Attacked(session.learner, step.keys))
    return session.finish()


def _attack_and_train(session: Session, layer: FirstLayer, attacked: Attacked) -> None:
    """Every full pass serves the attack and the weights, in train mode."""
    began, settings = time.monotonic(), session.config.yopo
    with session.learner.update(attacked.batch, attacked.keys[0].epoch) as update:
        for part in range(settings.passes):
            update.batch = attacked.batch
            with layer.adjoints() as adjoints:
                loss, correct = update.forward()
                update.backward(loss, correct, part=part, parts=settings.passes)
            attacked.ascend(layer, adjoints[0], settings.inner_steps)
            _train_first(layer, attacked.batch.x_adv, adjoints[0])
        update.optimizer_step()
    session.record(attacked.shards(settings.passes), update.result, time.monotonic() - began)


def _attack_then_train(session: Session, layer: FirstLayer, attacked: Attacked) -> None:
    """The full passes serve the attack alone, in eval mode; then the objective makes its own."""
    learner, settings, attack = session.learner, session.config.yopo, attacked.attack
    with frozen(learner.model):
        targets = targets_of(learner.model, attacked.x, attacked.y, attack, learner.helper)
        for _ in range(settings.passes):
            with layer.adjoints() as adjoints:
                input_gradient(learner.model, attacked.x + attacked.delta, targets, attack.maximised)
            attacked.ascend(layer, adjoints[0], settings.inner_steps)
    shards = attacked.shards(settings.passes)
    session.learn(shards, learner.batch(shards))


class Attacked:
    """The examples of one step with their perturbation δ, which begins as the recipe's attack does, ticket by ticket.

    x, delta: float32 [N, C, H, W]; y: int64 [N]; attack: at the present ε.
    """

    def __init__(self, learner: Learner, keys: tuple[Key, ...]) -> None:
        attack = learner.context.attack_now(learner.controls())
        if not isinstance(attack, Attack):
            raise SparringError(f"yopo.passes: attack {attack.name!r} has no gradient steps. Choose 'pgd'.")
        self.keys, self.attack, self.version, seed = keys, attack, learner.step, learner.config.train.seed
        self.sizes = [len(learner.plan.indices(key.epoch, key.number)) for key in keys]
        self.x, self.y = learner.examples(*keys)
        starts = [
            attack.initial(part, generator(seed, "attack", key.epoch, key.number))
            for part, key in zip(torch.split(self.x, self.sizes), keys, strict=True)
        ]
        self.delta, self._state = torch.cat(starts), attack.state(self.x)
        self._check = GradientCheck(len(self.x), self.x.device)

    @property
    def batch(self) -> Batch:
        """As it is now. A backward pass reaches the attacked images, so a frozen first layer has an adjoint too."""
        return Batch(self.x, perturbed(self.x, self.delta).requires_grad_(), self.y)

    def ascend(self, layer: FirstLayer, adjoint: Tensor, steps: int) -> None:
        """Attack steps along ∂⟨p, f₀(x + δ)⟩/∂δ. adjoint: p, of the shape of f₀'s output."""
        sizes = torch.full((len(self.x),), self.attack.alpha, device=self.x.device)
        for _ in range(steps):
            point = (self.x + self.delta).requires_grad_()
            gradient = torch.autograd.grad(_paired(layer, point, adjoint), point)[0]
            self._check.note(gradient)
            stepped = self.attack.step(self.delta, finite(gradient), sizes, self._state)
            self.delta = self.attack.project(stepped, self.x, self.attack.radius)

    def shards(self, passes: int) -> list[Shard]:
        """For the records. A full pass counts as a gradient of each example; steps of the first layer do not."""
        parts = (
            torch.split(each, self.sizes) for each in (self.delta, self.y, self._check.zero, self._check.non_finite)
        )
        return [
            Shard(
                key,
                0,
                self.version,
                self.version,
                self.attack.record,
                delta,
                labels,
                gradients=passes * len(labels),
                zero_gradients=int(zero.sum()),
                non_finite_gradients=int(non_finite.sum()),
            )
            for key, delta, labels, zero, non_finite in zip(self.keys, *parts, strict=True)
        ]


def _first_layer(learner: Learner) -> FirstLayer:
    """Of the network as it is trained: cast and formatted as its settings say."""
    settings, shape = learner.config.yopo, learner.dataset.shape
    return FirstLayer(learner.model, first_layer(plain(learner.model), settings.first_layer, shape).last)


def _paired(layer: FirstLayer, point: Tensor, adjoint: Tensor) -> Tensor:
    """⟨p, f₀(point)⟩, a scalar."""
    return (precise(adjoint) * precise(layer(point))).sum()


def _train_first(layer: FirstLayer, x_adv: Tensor, adjoint: Tensor) -> None:
    """Add ∂⟨p, f₀(x_adv)⟩/∂θ₀ to the gradients; p is that of the loss's part, so this is a part of the mean too."""
    value = _paired(layer, x_adv.detach(), adjoint)
    if value.requires_grad:
        torch.autograd.backward(value)
