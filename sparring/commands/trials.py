"""The recipe's methods are tried on two examples: a fault of a user's own method is found before a run begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from sparring.allocators import Allocation, Candidates
from sparring.attacks import Attack, State, frozen, input_gradient, targets_of
from sparring.attacks.calling import require_ball
from sparring.data.sampling import stratified
from sparring.errors import SparringError, UsageError
from sparring.evaluation.findings import PROBABILITIES
from sparring.evaluation.normalisation import normalised_outside
from sparring.machine.devices import device_of
from sparring.models.forward import plain
from sparring.models.starting import not_fresh
from sparring.objectives import Batch
from sparring.objectives.predictions import are_probabilities
from sparring.plugins import described
from sparring.randomness import generator
from sparring.trainer.experiment import Experiment

EXAMPLES = 2
DOUBT_EXAMPLES = 256
ROUNDING = 1e-5
ORDERS = {"linf": float("inf"), "l2": 2.0, "l1": 1.0}
T = TypeVar("T")


def try_methods(experiment: Experiment) -> None:
    """One pass of the model in training mode; one step of the attack, one allocation, one loss and its gradient, in
    eval mode. Nothing is changed.

    Raises:
        UsageError: a method fails, or returns something else than its interface says. The method is named.
    """
    attack, names = experiment.attack, experiment.config
    x, labels = experiment.training.batch(torch.arange(min(EXAMPLES, len(experiment.training))), 0)
    device = device_of(experiment.model)
    x, labels = x.to(device), labels.to(device)
    if len(x) == EXAMPLES:  # batch norm takes no single one
        _try_training_mode(experiment, x)
    if not isinstance(attack, Attack):
        return
    with frozen(experiment.model):  # which restores what `_loss` changes, too
        delta = _tried("attack", names.attack.name, lambda: _one_step(experiment, attack, x, labels))
        _tried("allocator", names.allocator.name, lambda: _allocate(experiment, attack, x, labels))
        _tried("objective", names.objective.name, lambda: _loss(experiment, x, delta, labels))


def _try_training_mode(experiment: Experiment, x: Tensor) -> None:
    """Refuse a model whose logits in training mode are no logits of the same classes. Its buffers and the random state
    stay as they were."""
    model, passed = plain(experiment.model), experiment.live.model is not None
    named = "the model" if passed else f"model.name = {experiment.config.model.name!r}"
    with frozen(model), _same_buffers(model), torch.random.fork_rng([x.device] if x.is_cuda else []), torch.no_grad():
        expected = model(x.clone())
        model.train()
        try:
            found = model(x.clone())
        except Exception as error:  # whatever the user's own code raises
            raise UsageError(f"{named} fails in training mode on {EXAMPLES} examples ({described(error)}).") from error
    if not isinstance(found, Tensor) or found.shape != expected.shape:
        shown = f"logits of {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise UsageError(
            f"{named} returns {shown} for {EXAMPLES} examples in training mode, and logits of {tuple(expected.shape)} "
            f"in eval mode. Return the same logits in both; switch auxiliary outputs off (aux_logits = false)."
        )


@contextmanager
def _same_buffers(model: nn.Module) -> Iterator[None]:
    """Inside, passes may change the model's buffers, as batch norm does; they are restored."""
    before = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        yield
    finally:
        for module, name, buffer, values in before:
            buffer.copy_(values)
            setattr(module, name, buffer)  # a pass may have put another one there


def doubts_of(experiment: Experiment) -> list[str]:
    """What may make the figures of the run wrong: a model that returns probabilities, or initial weights that are made
    for normalised images."""
    training, found = experiment.training, []
    x, labels = training.batch(stratified(training.labels, DOUBT_EXAMPLES), 0)
    device = device_of(experiment.model)
    with frozen(experiment.model), torch.no_grad():
        if bool(are_probabilities(experiment.model(x[:EXAMPLES].to(device))).all()):
            found.append(PROBABILITIES)
    if not_fresh(experiment.config.model):
        found += normalised_outside(experiment.model, x, labels)
    return found


def _tried(group: str, name: str, method: Callable[[], T]) -> T:
    try:
        return method()
    except SparringError:
        raise
    except Exception as error:  # whatever the user's own code raises
        raise UsageError(f"{group}.name = {name!r} fails on {EXAMPLES} examples ({described(error)}).") from error


def _one_step(experiment: Experiment, attack: Attack, x: Tensor, labels: Tensor) -> Tensor:
    """δ after one step from the attack's own start, at half of ε as well as at the full one."""
    require_ball(attack, x)
    helper = None if experiment.helper is None else experiment.helper.network
    targets = targets_of(experiment.model, x, labels, attack, helper)
    for now in (attack.at(attack.epsilon / 2), attack):
        delta = _like(x, "initial", now.initial(x, generator(experiment.config.train.seed, "trial")))
        gradient = input_gradient(experiment.model, x + delta, targets, now.maximised).nan_to_num(0.0, 0.0, 0.0)
        sizes = torch.full((len(x),), now.alpha, device=x.device)
        delta = _like(x, "step", now.step(delta, gradient, sizes, _state(now, x)))
        delta = _like(x, "project", now.project(delta, x, now.radius))
        _require_inside(now, x, delta)
    return delta


def _state(attack: Attack, x: Tensor) -> State:
    state = attack.state(x)
    if not isinstance(state, dict):
        raise ValueError(f"state returns a {type(state).__name__}; a dict of tensors [N, ...] is needed")
    for name, value in state.items():
        if not isinstance(value, Tensor) or value.shape[:1] != x.shape[:1]:
            raise ValueError(f"state[{name!r}] is no tensor with one row for each of the {len(x)} examples")
    return state


def _require_inside(attack: Attack, x: Tensor, delta: Tensor) -> None:
    """The projection must end in [0, 1], and under a norm that is known here in the ball."""
    if not delta.isfinite().all():
        raise ValueError("project returns NaN or infinite entries")
    if not ((x + delta).clamp(0, 1) - x).allclose(delta, atol=ROUNDING):
        raise ValueError("project leaves x + δ outside [0, 1]")
    if attack.norm in ORDERS:
        farthest = torch.linalg.vector_norm(delta.flatten(1), ORDERS[attack.norm], dim=1).max().item()
        if farthest > attack.radius * (1 + ROUNDING) + ROUNDING:
            raise ValueError(
                f"project leaves δ outside the ball: its {attack.norm} norm is {farthest:.4g}, the radius "
                f"{attack.radius:.4g}"
            )


def _like(x: Tensor, method: str, made: object) -> Tensor:
    if not isinstance(made, Tensor) or made.shape != x.shape or made.dtype != x.dtype:
        found = f"{made.dtype} {tuple(made.shape)}" if isinstance(made, Tensor) else f"a {type(made).__name__}"
        raise ValueError(f"{method} returns {found}; perturbations, {x.dtype} {tuple(x.shape)}, are needed")
    return made


def _allocate(experiment: Experiment, attack: Attack, x: Tensor, labels: Tensor) -> None:
    if experiment.allocator is None:
        return
    random = generator(experiment.config.train.seed, "trial")
    with torch.no_grad():
        logits = experiment.model(x)
    found = experiment.allocator.allocate(Candidates(experiment.model, x, labels, logits, attack, 0.0, random))
    if not isinstance(found, Allocation) or not found.step_counts.shape == found.step_sizes.shape == labels.shape:
        raise ValueError(f"allocate must return an Allocation with a number of steps for each of {len(x)} examples")


def _loss(experiment: Experiment, x: Tensor, delta: Tensor, labels: Tensor) -> None:
    helper = None if experiment.helper is None else experiment.helper.network
    parameters = list(experiment.model.requires_grad_(True).parameters())
    noise = delta if experiment.objective.takes_noise else None
    found = experiment.objective(experiment.model, Batch(x, (x + delta).clamp(0, 1), labels, noise=noise), helper)
    if not (isinstance(found[0], Tensor) and found[0].shape == () and found[1].shape == labels.shape):
        raise ValueError("loss must return the scalar loss of the batch and the logits [N, K] of the attacked images")
    with torch.no_grad():
        sound = bool(experiment.model((x + delta).clamp(0, 1)).isfinite().all())
    if sound and not found[0].isfinite():
        raise ValueError(f"loss is {found[0].item()} although all logits are finite")
    if not found[0].requires_grad:
        raise ValueError("loss has no gradient: it must be a differentiable function of the model's logits")
    torch.autograd.grad(found[0], parameters, allow_unused=True)
