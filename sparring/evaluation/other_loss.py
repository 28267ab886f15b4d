"""Does another loss break what an attack has left? Then the attack was fooled, as by logits that saturate."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from sparring.attacks import CROSS_ENTROPY, Attack, frozen
from sparring.attacks.losses import towards
from sparring.data import Dataset, batch
from sparring.evaluation.outcomes import Attempt, attempted
from sparring.machine.devices import device_of
from sparring.models.forward import plain
from sparring.objectives.predictions import correct

EXAMPLES, STEPS = 128, 20  # survivors that are tried, and steps of the attempt
SHARE, LEAST = 0.06, 5  # of them: sound networks lost 1 %, and up to 5 % after attacks of ten steps
ENOUGH_STEPS = 10  # an attack of fewer steps is weak by itself, as its name says
KEY = 1_000_000  # seeds the start, apart from those of the attack's own attempts


def other_loss(model: nn.Module, dataset: Dataset, attack: Attack, survivors: Tensor, seed: int) -> list[str]:
    """A warning if one attempt by the margin to the likeliest other class breaks many survivors, else [].

    Args:
        attack: by the cross-entropy; of others nothing is said. survivors: int64 [n], places in `dataset` of the
            examples that have survived it.
    """
    places = survivors[:EXAMPLES].cpu()
    if attack.maximised is not CROSS_ENTROPY or attack.steps < ENOUGH_STEPS or len(places) < LEAST:
        return []
    other = replace(attack, steps=min(STEPS, attack.steps), step_size=None, restarts=1, loss=towards(1))
    model, device = plain(model), device_of(model)
    x, y = (each.to(device) for each in batch(dataset, places, augment="none", seed=0, epoch=0))
    with frozen(model):
        made = attempted(model, x, y, Attempt((KEY,), other), seed, 0)
    broken = int((~correct(made.logits, y)).sum())
    if broken < max(LEAST, SHARE * len(places)):
        return []
    return [
        f"Another loss breaks {broken} of {len(places)} examples that survived (one attempt by the margin to the "
        f"likeliest other class): robust accuracy is too high. Evaluate by AutoAttack, and look in the model for "
        f"logits that saturate."
    ]
