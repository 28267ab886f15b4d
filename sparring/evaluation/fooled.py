"""Was an attack by gradients fooled? Four looks at some of the examples that have survived it.

Another loss breaks many of them where logits saturate or grow unevenly, or where the attack's own loss or step has a
slip. Where the gradient is masked, random steps do more than it does, and so does a short search without gradients.
Where pixels have no gradient, as those that the network clamps, no attack moves them that follows it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparring.attacks import CROSS_ENTROPY, PGD, Attack, frozen, perturb, perturbed
from sparring.attacks.gradients import finite
from sparring.attacks.iteration import input_gradient
from sparring.attacks.losses import rivals
from sparring.attacks.norms import NORMS, largest_entries
from sparring.data import Dataset, batch
from sparring.data.reading import evenly_spaced
from sparring.errors import SparringError
from sparring.evaluation.autoattack import square
from sparring.evaluation.outcomes import logits_of, variation
from sparring.evaluation.significance import LEVEL, sign_test
from sparring.evaluation.surfaces import DIRECTIONS, LENGTHS, rises, unit
from sparring.machine.devices import device_of
from sparring.models.forward import plain
from sparring.objectives.predictions import correct
from sparring.randomness import generator

EXAMPLES = 128  # survivors that are looked at
STEPS, ATTEMPTS, QUERIES = 20, 2, 200  # of PGD by the other loss, and of the search: forward passes
STILL = 0.05  # of the entries of the gradient: sound networks of ReLUs had none that was exactly zero
SHARE, LEAST = 0.06, 5  # of them: sound networks of MNIST lost up to 5 %, those of CIFAR-10 up to 11 %
ENOUGH_STEPS = 10  # an attack of fewer steps is weak by itself, as its name says: only its gradient is looked at
DETERMINISTIC = (
    "The model gives the same logits in every pass: AutoAttack rand is for models that draw at random, and attacks "
    "this one less than the standard version does. Evaluate by evaluation.version = 'standard'."
)
Look = Callable[[nn.Module, Tensor, Tensor, PGD, int], list[str]]
MORE = "Evaluate by AutoAttack; `sparring curves` shows more."


def fooled(
    model: nn.Module,
    dataset: Dataset,
    attack: Attack,
    survivors: Tensor,
    seed: int,
    *,
    at_random: bool = False,
    complete: bool = False,
) -> list[str]:
    """Warnings about an attack under L∞ or L2, whatever loss it maximises.

    Args:
        survivors: int64 [n], places in `dataset` of the examples that have survived the attack.
        at_random: they survived an attack on networks that draw at random; such a network is not looked at.
        complete: the attacks have searched without gradients and by another loss themselves (`is_complete`): only
            pixels without a gradient are looked at.
    """
    places = survivors[evenly_spaced(len(survivors), EXAMPLES)].cpu()  # data may be sorted by class
    if len(places) == 0:
        return []
    x, y = batch(dataset, places, augment="none", seed=0, epoch=0)
    return fooled_on(model, x, y, attack, seed, at_random=at_random, complete=complete)


def fooled_on(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    attack: Attack,
    seed: int,
    *,
    at_random: bool = False,
    complete: bool = False,
) -> list[str]:
    """As `fooled`, of these survivors: clean images, float32 [N, C, H, W] in [0, 1], and labels, int64 [N]."""
    if attack.norm not in NORMS or attack.epsilon == 0 or len(y) < LEAST:
        return []
    pgd = PGD(attack.epsilon, norm=attack.norm, steps=min(STEPS, attack.steps))
    model, device = plain(model), device_of(model)
    x, y = x.to(device), y.to(device)
    with frozen(model):
        if at_random and bool(variation(model, x).any()):
            return []
        found = [text for look in _looks(attack, complete) for text in look(model, x, y, pgd, seed)]
    return [DETERMINISTIC, *found] if at_random else found


def _looks(attack: Attack, complete: bool) -> list[Look]:
    """Those at the survivors of this attack."""
    if complete:
        return [_by_still_pixels]
    if attack.steps >= ENOUGH_STEPS:
        return [_by_another_loss, _by_the_gradient, _by_no_gradient, _by_still_pixels]
    return [_by_cross_entropy, _by_the_gradient] if _has_ways_of_its_own(attack) else [_by_the_gradient]


def _has_ways_of_its_own(attack: Attack) -> bool:
    """Whether its loss is not the cross-entropy, or its class is the user's: few steps do not say how weak it is."""
    return attack.maximised is not CROSS_ENTROPY or not type(attack).__module__.startswith("sparring.")


def in_place_of(norm: str, epsilon: float) -> Attack:
    """The attack whose survivors are looked at after AutoAttack."""
    return PGD(epsilon, norm=norm, steps=STEPS)


def is_complete(names: Sequence[str]) -> bool:
    """Whether of AutoAttack's attacks of these names Square has searched without gradients, and another one has
    attacked by another loss than the cross-entropy."""
    return "square" in names and bool({*names} - {"square", "apgd-ce"})


def _by_another_loss(model: nn.Module, x: Tensor, y: Tensor, pgd: PGD, seed: int) -> list[str]:
    """PGD along `_balanced` directions, which any rising function of each logit leaves as they are."""
    return _told(
        _broken_along(lambda delta: _balanced(model, x + delta, y), model, x, y, pgd, seed),
        "Another loss (PGD by the label's logit and the likeliest other one, each of equal weight)",
        "robust accuracy is too high by about {share} of itself. Evaluate by AutoAttack. Logits that saturate, or a "
        "training that has hardly begun, weaken the cross-entropy; a loss or a step of your own may have a slip.",
    )


def _broken_along(
    direction: Callable[[Tensor], Tensor], model: nn.Module, x: Tensor, y: Tensor, pgd: PGD, seed: int
) -> Tensor:
    """bool [N]: misclassified after one of some attempts of PGD, whose steps go along direction(δ)."""
    broken, sizes = torch.zeros_like(y, dtype=torch.bool), torch.full((len(x),), pgd.alpha, device=x.device)
    for attempt in range(ATTEMPTS):
        delta, state = pgd.initial(x, generator(seed, "fooled", attempt)), pgd.state(x)
        for _ in range(pgd.steps):
            delta = pgd.project(pgd.step(delta, direction(delta), sizes, state), x, pgd.radius)
        broken |= ~correct(logits_of(model, perturbed(x, delta)), y)
    return broken


def _by_still_pixels(model: nn.Module, x: Tensor, y: Tensor, pgd: PGD, seed: int) -> list[str]:
    """PGD that moves pixels without a gradient too, along the one that they have where it is alive again."""
    still = _still(model, x, y)
    share = float(still.float().mean())
    if not STILL < share < 1:  # gradients of zero are counted by the attack itself
        return []
    revived = pgd.epsilon * _towards_a_gradient(model, x, y, pgd.epsilon, generator(seed, "fooled still"))

    def direction(delta: Tensor) -> Tensor:
        own = _balanced(model, x + delta, y)
        beside = _balanced(model, perturbed(x, torch.where(own == 0, revived, delta)), y)
        return torch.where(own == 0, beside, own)

    return _told(
        _broken_along(direction, model, x, y, pgd, seed),
        f"PGD that also moves pixels whose gradient is exactly zero ({100 * share:.0f} % of them)",
        "the attack did not move these, and robust accuracy is too high by at least {share} of itself. The network "
        "clamps or thresholds its images, and AutoAttack's gradients are as blind: evaluate it without that, or with a "
        "gradient that passes through it (BPDA).",
    )


def _still(model: nn.Module, point: Tensor, y: Tensor) -> Tensor:
    """bool of the shape of point: the cross-entropy has no gradient there."""
    return finite(input_gradient(model, point, y, CROSS_ENTROPY)) == 0


def _towards_a_gradient(model: nn.Module, x: Tensor, y: Tensor, length: float, random: torch.Generator) -> Tensor:
    """1 or -1, of the shape of x: the side on which a pixel has a gradient at this distance; at random if both do."""
    up, down = (~_still(model, perturbed(x, torch.full_like(x, sign * length)), y) for sign in (1, -1))
    side = up.float() - down.float()
    coin = torch.randint(0, 2, x.shape, generator=random).to(x) * 2 - 1
    return torch.where(side == 0, coin, side)


def _by_cross_entropy(model: nn.Module, x: Tensor, y: Tensor, pgd: PGD, seed: int) -> list[str]:
    """PGD with as many steps as the attack has made."""
    delta = perturb(model, x, y, pgd, generator(seed, "fooled"))
    return _told(
        ~correct(logits_of(model, perturbed(x, delta)), y),
        f"PGD by the cross-entropy, with as many steps ({pgd.steps}),",
        "robust accuracy is too high by at least {share} of itself. Look for a slip in the attack's own loss or step, "
        "and evaluate by AutoAttack.",
    )


def _balanced(model: nn.Module, point: Tensor, y: Tensor) -> Tensor:
    """Up the likeliest other logit and down the label's, each gradient of length one; float32 of the shape of point."""
    point = point.detach().requires_grad_(True)
    logits = model(point.clone())
    parts = logits.gather(1, rivals(y, logits, 1)).sum(0)
    down, up = (finite(torch.autograd.grad(part, point, retain_graph=True)[0]) for part in parts)
    return (unit(up) - unit(down)).view_as(point).float()


def _by_the_gradient(model: nn.Module, x: Tensor, y: Tensor, pgd: PGD, seed: int) -> list[str]:
    """By the rule of the loss surface in `masking`: at all lengths, since far away a sound network may lose too."""
    gradient, random = finite(input_gradient(model, x, y, CROSS_ENTROPY)), generator(seed, "fooled")
    led = largest_entries(gradient) > 0  # gradients of zero are counted by the attack itself
    if not bool(led.any()):
        return []
    x, y, gradient = x[led], y[led], gradient[led]
    won = max(int(rises(model, x, y, gradient, pgd, share * pgd.epsilon, random).sum()) for share in LENGTHS)
    if sign_test(len(y) - won, won) >= LEVEL:
        return []
    return [
        f"A step along the gradient raises the margin more than each of {DIRECTIONS} random ones on only {won} of "
        f"{len(y)} examples that survived (at the best of {len(LENGTHS)} lengths): the gradient is masked, and robust "
        f"accuracy is probably too high. {MORE}"
    ]


def _by_no_gradient(model: nn.Module, x: Tensor, y: Tensor, pgd: PGD, seed: int) -> list[str]:
    how: dict[str, Any] = {"norm": pgd.norm, "epsilon": pgd.epsilon, "seed": seed, "batch_size": len(y)}
    try:
        found = square(model, x, y, classes=logits_of(model, x[:1]).shape[1], queries=QUERIES, **how)
    except SparringError:  # images that it does not take
        return []
    return _told(
        ~found.alive,
        f"Square (which needs no gradient, {QUERIES} queries)",
        f"the gradient is masked, and robust accuracy is too high by at least {{share}} of itself. {MORE}",
    )


def _told(broken: Tensor, by: str, meaning: str) -> list[str]:
    """A warning if more of the survivors are broken than of most sound networks'. broken: bool [N]; meaning: with
    {share} for how many they are."""
    count = int(broken.sum())
    if count < max(LEAST, SHARE * len(broken)):
        return []
    share = f"{100 * count / len(broken):.0f} %"
    return [f"{by} breaks {count} of {len(broken)} examples that survived: {meaning.format(share=share)}"]
