"""The iteration that all attacks share, as a generator that stops before every step.

    δ ← start
    κ times: δ ← project(δ + α·direction(∇ loss))

Between two steps its caller may load newer weights, note their version, or do other work. `perturb` runs it to the end.
The model is used in its current mode: `frozen` sets eval mode and switches off the gradients of its parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from sparring.attacks.gradients import ALL, GradientCheck, finite
from sparring.attacks.norms import per_example, perturbed
from sparring.attacks.starts import WarmStart
from sparring.errors import UsageError

if TYPE_CHECKING:
    from sparring.attacks.attack import Attack, State

Loss = Callable[[Tensor, Tensor], Tensor]  # logits [N, K], targets [N, ...] -> [N]
T = TypeVar("T")


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Eval mode without parameter gradients, as an attack needs it; both are restored at the end."""
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.eval()
    model.requires_grad_(False)
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def input_gradient(model: nn.Module, point: Tensor, targets: Tensor, loss: Loss) -> Tensor:
    """The gradient of the summed loss with respect to the attacked images; parameters get no gradient.

    Raises:
        UsageError: the logits do not depend on the images by anything that torch differentiates.
    """
    point = point.detach().requires_grad_(True)
    total = loss(model(point.clone()), targets).sum()  # a copy, which it may change
    gradient = torch.autograd.grad(total, point, allow_unused=True)[0] if total.requires_grad else None
    if gradient is None:
        raise UsageError(
            "model: its logits have no gradient with respect to the images (detach, no_grad, argmax or numpy in its "
            "forward pass?), so no gradient attack can judge it. Remove that."
        )
    return gradient


def iterate(
    model: nn.Module,
    x: Tensor,
    targets: Tensor,
    attack: Attack,
    generator: torch.Generator,
    *,
    start: WarmStart | None = None,
    step_counts: Tensor | None = None,
    step_sizes: Tensor | None = None,
    check: GradientCheck | None = None,
) -> Generator[int, None, Tensor]:
    """Yield the number of each attack step before it is made; return the perturbation.

    Args:
        x: float32 [N, C, H, W] in [0, 1]. targets: see `AttackLoss.targets_of`.
        start: starting point instead of the attack's own start.
        step_counts: int64 [N], steps of each example (default: `attack.steps` for all). All examples end together: one
            with few steps joins the batch late, so that its last steps use the newest weights too. One with 0 steps is
            not attacked and keeps δ = 0.
        step_sizes: float32 [N], step size of each example (default: `attack.alpha`).
        check: notes which examples had no usable gradient.

    Returns:
        float32 [N, C, H, W], inside the ball and, added to x, inside [0, 1]; of several restarts the one with the
        highest loss, example by example.
    """
    counts = [attack.steps] * len(x) if step_counts is None else step_counts.tolist()
    longest, attacked = max(counts), sum(count > 0 for count in counts)
    sizes = torch.full((len(x),), attack.alpha, device=x.device) if step_sizes is None else step_sizes
    # Most steps first, so that the examples of a step are a slice: a mask would have to be read back from a GPU.
    order = None if min(counts) == longest else torch.tensor(counts).argsort(descending=True).to(x.device)
    images, goals, sizes = (x, targets, sizes) if order is None else (x[order], targets[order], sizes[order])
    best, best_loss = torch.zeros_like(x), torch.full((len(x),), -torch.inf, device=x.device, dtype=x.dtype)
    for restart in range(attack.restarts):
        delta = starting_point(x, attack, generator, start)
        delta = delta if order is None else delta[order]
        delta[attacked:] = 0
        state = attack.state(images)
        for step in range(longest):
            yield restart * longest + step
            active = sum(count >= longest - step for count in counts)  # examples with few steps join at the end
            stepped = ascended(
                model,
                images[:active],
                delta[:active],
                goals[:active],
                attack,
                sizes[:active],
                attack.radius,
                {name: kept[:active] for name, kept in state.items()},
                check,
                ALL if order is None else order[:active],
            )
            delta = stepped if active == len(x) else torch.cat([stepped, delta[active:]])
        if attack.restarts == 1:
            return _in_order(delta, order)
        with torch.no_grad():
            final = attack.maximised(model(perturbed(images, delta)), goals)
        better = final > best_loss
        best[better], best_loss[better] = delta[better], final[better].to(best_loss.dtype)
    return _in_order(best, order)


def perturb(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    attack: Attack,
    generator: torch.Generator,
    helper: nn.Module | None = None,
    check: GradientCheck | None = None,
) -> Tensor:
    """Run the whole attack with the model in its current mode; see `iterate`. `helper`: see `AttackLoss`."""
    targets = targets_of(model, x, labels, attack, helper)
    return result_of(iterate(model, x, targets, attack, generator, check=check))


def targets_of(model: nn.Module, x: Tensor, labels: Tensor, attack: Attack, helper: nn.Module | None = None) -> Tensor:
    """The targets of the attack's loss; makes a clean forward pass if the loss needs one."""
    loss = attack.maximised
    with torch.no_grad():
        clean = model(x.clone()) if loss.needs_clean else None
        helper_logits = helper(x.clone()) if loss.targets == "helper" and helper is not None else None
    return loss.targets_of(labels, clean, helper_logits)


def result_of(steps: Generator[int, None, T], before_step: Callable[[int], object] = lambda step: None) -> T:
    """Run a generator to its end and return its result; `before_step` is called with each value that it yields."""
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        before_step(step)


def starting_point(x: Tensor, attack: Attack, generator: torch.Generator, start: WarmStart | None = None) -> Tensor:
    """The starting δ of the attack on x; see `iterate`. Random numbers are drawn on the generator's device."""
    if start is None:
        return attack.initial(x, generator)
    warm = attack.placed(start.delta.to(x.device), x)
    known = start.known.to(x.device)
    if bool(known.all()):
        return warm
    return torch.where(per_example(known), warm, attack.initial(x, generator))


def ascended(
    model: nn.Module,
    x: Tensor,
    delta: Tensor,
    targets: Tensor,
    attack: Attack,
    sizes: Tensor,
    radius: float | Tensor,
    state: State,
    check: GradientCheck | None = None,
    at: slice | Tensor = ALL,
) -> Tensor:
    """δ after one attack step. `sizes`: float32 [N]; `radius`: one number or float32 [N]; both in pixel intensities.

    An entry of the gradient that is not finite counts as 0.

    Args:
        state: state of the step rule for these examples, changed in place.
        check: notes the gradient; `at` says which of its examples these are.

    Raises:
        UsageError: the attack's step returns other examples, or another type of numbers.
    """
    gradient = input_gradient(model, x + delta, targets, attack.maximised)
    if check is not None:
        check.note(gradient, at)
    stepped = attack.step(delta, finite(gradient), sizes, state)
    if (stepped.shape, stepped.dtype) != (delta.shape, delta.dtype):  # torch would broadcast it
        raise UsageError(
            f"attack {attack.name or type(attack).__name__}: step returns {stepped.dtype} {tuple(stepped.shape)} for "
            f"{delta.dtype} {tuple(delta.shape)}. Return a perturbation of each image, of the same type."
        )
    return attack.project(stepped, x, radius)


def _in_order(delta: Tensor, order: Tensor | None) -> Tensor:
    """Restore the order of the examples: delta[i] belongs to example order[i]."""
    return delta if order is None else torch.empty_like(delta).index_copy_(0, order, delta)
