"""FGSM, FGSM-RS, N-FGSM and PGD as one iteration (Bhat et al., Wong et al., de Jorge et al. 2022).

`iterate` is a generator that yields before each attack step, so that its caller can swap newer weights in, note
their version, or let other work go first; `perturb` runs it to the end. The model is used as it is found: put it
in eval mode and switch its parameters' gradients off with `frozen`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparring.attacks.norms import Norm, ascend, per_example, perturbed, project, random_start
from sparring.config import AttackSettings
from sparring.objectives import kl_divergence

Loss = Callable[[Tensor, Tensor], Tensor]  # logits [N, K], targets [N, ...] -> [N]
Start = Literal["zero", "uniform", "gaussian"]
LossName = Literal["ce", "kl"]
GAUSSIAN = 0.001  # standard deviation of the start of TRADES and MART, in pixel intensities


@dataclass(frozen=True)
class Attack:
    """A fully specified attack: radius and step in pixel intensities.

    `noise` is N-FGSM's k: it begins uniform in the ball of radius k·ε and is not cut back to that of ε.
    """

    norm: Norm
    epsilon: float
    steps: int
    step_size: float
    start: Start = "uniform"
    restarts: int = 1
    loss: LossName = "ce"
    noise: float = 0.0

    @property
    def radius(self) -> float:
        """Of the ball that every perturbation of it is in: ε, and (1 + k)·ε for N-FGSM."""
        return (1 + self.noise) * self.epsilon


def attack_from(settings: AttackSettings, epsilon: float, objective: str = "pgd-at", pgd_steps: int = 0) -> Attack:
    """The attack of the settings at radius `epsilon` (ε now); the step size scales with it.

    Step-size rules: PGD 2.5·ε/κ (Bhat et al.), FGSM 1.25·ε (Wong et al.; ε from zero: the ball cuts the rest),
    N-FGSM ε. `objective` decides what is left to it: trades attacks the divergence, and PGD begins with a little
    Gaussian noise under trades and mart. Of a start that is given from outside (previous, last) this is the one for
    those without.
    `pgd_steps`: PGD with so many steps instead, by its own rule, where a guard asks for it.
    """
    if pgd_steps:
        settings = settings.model_copy(update={"name": "pgd", "steps": pgd_steps, "step_size": None})
    steps = settings.steps if settings.name == "pgd" else 1
    start = _start_of(settings, objective)
    from_zero = start == "zero" and settings.start != "previous"
    rule = {"pgd": 2.5 / steps, "n-fgsm": 1.0}.get(settings.name, 1.0 if from_zero else 1.25)
    relative = rule if settings.step_size is None else settings.step_size / settings.epsilon
    loss: LossName = ("kl" if objective == "trades" else "ce") if settings.loss == "auto" else settings.loss
    return Attack(settings.norm, epsilon, steps, relative * epsilon, start, settings.restarts, loss, noise_of(settings))


def _start_of(settings: AttackSettings, objective: str) -> Start:
    if settings.start == "previous":
        return "zero"
    if settings.start != "auto" and settings.start != "last":
        return settings.start
    if settings.name == "fgsm":
        return "zero"
    return "uniform" if objective == "pgd-at" or settings.name in ("fgsm-rs", "n-fgsm") else "gaussian"


def attack_within(settings: AttackSettings, radius: float, objective: str = "pgd-at") -> Attack:
    """The attack of the settings whose perturbations are in a ball of `radius`, as a shard names it."""
    return attack_from(settings, radius / (1 + noise_of(settings)), objective)


def noise_of(settings: AttackSettings) -> float:
    """k of N-FGSM, 0 for every other attack."""
    return settings.noise if settings.name == "n-fgsm" else 0.0


def warmed_up(epsilon: float, step: int, warmup_steps: float) -> float:
    """ε at step `step`: linear from ε/warmup to ε over `warmup_steps` steps."""
    return epsilon * min(1.0, (step + 1) / max(warmup_steps, 1.0))


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Eval mode and no parameter gradients, as an attack wants it; both are restored."""
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


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """[N]: cross-entropy of each example."""
    return F.cross_entropy(logits.float(), labels, reduction="none")


LOSSES: dict[LossName, Loss] = {"ce": cross_entropy, "kl": kl_divergence}


def targets_of(attack: Attack, labels: Tensor, clean_logits: Tensor | None) -> Tensor:
    """What the attack's loss compares with: the labels (int64 [N]), or the clean predictions (float32 [N, K])."""
    if attack.loss == "ce":
        return labels
    assert clean_logits is not None, "this attack needs the clean logits"
    return clean_logits.float().softmax(1)


def input_gradient(model: nn.Module, point: Tensor, targets: Tensor, loss: Loss) -> Tensor:
    """The gradient of the summed loss with respect to the attacked images; parameters get none."""
    point = point.detach().requires_grad_(True)
    return torch.autograd.grad(loss(model(point), targets).sum(), point)[0]


def iterate(
    model: nn.Module,
    x: Tensor,
    targets: Tensor,
    attack: Attack,
    generator: torch.Generator,
    *,
    start: Tensor | None = None,
    known: Tensor | None = None,
    step_counts: Tensor | None = None,
    step_sizes: Tensor | None = None,
) -> Generator[int, None, Tensor]:
    """Yield the number of each attack step before it is made; return the perturbation.

    Args:
        x: float32 [N, C, H, W] in [0, 1]. targets: see `targets_of`.
        start: where to begin instead of the attack's own start, of every example or, with `known` (bool [N]), of these.
        step_counts: int64 [N], steps of each example (default: `attack.steps` for all). All end together: an example
            with few steps joins the batch late, so that its last steps see the newest weights too; one with 0 is never
            attacked and keeps δ = 0.
        step_sizes: float32 [N], step size of each example (default: `attack.step_size`).

    Returns:
        float32 [N, C, H, W], inside the ball and, added to x, inside [0, 1]; of several restarts the one with the
        highest loss, example by example.
    """
    counts = [attack.steps] * len(x) if step_counts is None else step_counts.tolist()
    longest, attacked = max(counts), sum(count > 0 for count in counts)
    sizes = torch.full((len(x),), attack.step_size, device=x.device) if step_sizes is None else step_sizes
    # Longest first, so that those that take part in a step are a slice: a mask would have to be read back from a GPU.
    order = None if min(counts) == longest else torch.tensor(counts).argsort(descending=True).to(x.device)
    images, goals, sizes = (x, targets, sizes) if order is None else (x[order], targets[order], sizes[order])
    best, best_loss = torch.zeros_like(x), torch.full((len(x),), -torch.inf, device=x.device)
    for restart in range(attack.restarts):
        delta = starting_point(x, attack, generator, start, known)
        delta = delta if order is None else delta[order]
        delta[attacked:] = 0
        for step in range(longest):
            yield restart * longest + step
            active = sum(count >= longest - step for count in counts)  # few steps are the last ones, on new weights
            moved = ascended(
                model, images[:active], delta[:active], goals[:active], attack, sizes[:active], attack.radius
            )
            delta = moved if active == len(x) else torch.cat([moved, delta[active:]])
        if attack.restarts == 1:
            return _in_order(delta, order)
        with torch.no_grad():
            final = LOSSES[attack.loss](model(perturbed(images, delta)), goals)
        better = final > best_loss
        best[better], best_loss[better] = delta[better], final[better]
    return _in_order(best, order)


def _in_order(delta: Tensor, order: Tensor | None) -> Tensor:
    """Back in the order of the examples: delta[i] is that of example order[i]."""
    return delta if order is None else torch.empty_like(delta).index_copy_(0, order, delta)


def perturb(model: nn.Module, x: Tensor, labels: Tensor, attack: Attack, generator: torch.Generator) -> Tensor:
    """Run the attack to its end with the model as it is; see `iterate`."""
    with torch.no_grad():
        clean = model(x) if attack.loss == "kl" else None
    steps = iterate(model, x, targets_of(attack, labels, clean), attack, generator)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            delta: Tensor = done.value
            return delta


def starting_point(
    x: Tensor, attack: Attack, generator: torch.Generator, start: Tensor | None = None, known: Tensor | None = None
) -> Tensor:
    """Where the attack on x begins; see `iterate`. Drawn on the generator's device."""
    if start is None:
        return _own_start(x, attack, generator)
    given = project(start, x, attack.norm, attack.radius)
    if known is None:
        return given
    return torch.where(per_example(known), given, _own_start(x, attack, generator))


def _own_start(x: Tensor, attack: Attack, generator: torch.Generator) -> Tensor:
    if attack.start == "zero":
        return torch.zeros_like(x)
    if attack.start == "gaussian":  # neither clamped to the ball nor to the image, as in the authors' code
        return GAUSSIAN * torch.randn(x.shape, generator=generator, device=generator.device).to(x.device)
    reach = attack.noise * attack.epsilon if attack.noise else attack.epsilon
    return project(random_start(x, attack.norm, reach, generator), x, attack.norm, attack.radius)


def ascended(
    model: nn.Module, x: Tensor, delta: Tensor, targets: Tensor, attack: Attack, sizes: Tensor, radius: float | Tensor
) -> Tensor:
    """δ after one attack step; `sizes` float32 [N], `radius` for all or float32 [N], both pixel intensities."""
    gradient = input_gradient(model, x + delta, targets, LOSSES[attack.loss])
    return project(ascend(delta, gradient, attack.norm, sizes), x, attack.norm, radius)
