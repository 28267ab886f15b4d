"""What may make a robust accuracy wrong: counted beside the figure, and said in a warning."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from sparring.attacks import Attack
from sparring.evaluation.outcomes import Outcomes

FAINT = 0.5  # accuracy minus mean confidence
HALF_LEVEL = 0.5 / 255  # of images in [0, 1]


class Findings(NamedTuple):
    """Numbers of examples.

    zero_gradients: of the robust examples, those whose attack met a gradient of zero, or did not move.
    non_finite_gradients: entries of the gradient were not finite and taken as 0. non_finite_logits: on the clean or an
    attacked image, so that the example counts as wrong. probabilities: the model returns probabilities. faint: its
    confidence is far below its accuracy. varies: a further pass of the same images, or of half of them,
    gives other logits.
    """

    samples: int
    robust: int = 0
    zero_gradients: int = 0
    non_finite_gradients: int = 0
    non_finite_logits: int = 0
    probabilities: bool = False
    faint: bool = False
    varies: bool = False


def findings_of(outcomes: Outcomes) -> Findings:
    """The counts of the outcomes."""
    return Findings(
        samples=len(outcomes.labels),
        robust=int(outcomes.robust.sum()),
        zero_gradients=int((outcomes.zero_gradient & outcomes.robust).sum()),
        non_finite_gradients=int(outcomes.non_finite_gradient.sum()),
        non_finite_logits=int(outcomes.non_finite_logits.sum()),
        probabilities=bool(outcomes.probabilities.all()),
        faint=float(outcomes.clean.float().mean() - outcomes.confidence.mean()) > FAINT,
        varies=bool(outcomes.varies.any()),
    )


def worst(found: Iterable[Findings]) -> Findings:
    """The highest count of each kind under several attacks on the same examples."""
    return Findings(*(max(counts) for counts in zip(*found, strict=True)))


def warnings_of(found: Findings) -> list[str]:
    """A sentence or two for each kind: what was found, what it does to the figures, and what to do."""
    reported = []
    if found.non_finite_logits:
        reported.append(_non_finite_logits(found))
    if found.probabilities:
        reported.append(PROBABILITIES)
    if found.faint and not found.probabilities:
        reported.append(FAINT_LOGITS)
    if found.varies:
        reported.append(RANDOM_LOGITS)
    if found.zero_gradients:
        reported.append(_zero_gradients(found))
    if found.non_finite_gradients:
        reported.append(_non_finite_gradients(found))
    return reported


def unreached(trained: float, epsilon: float) -> list[str]:
    """A warning if training ended at a smaller ε (`trained`) than its attack's full one, by which it is evaluated."""
    if trained >= epsilon * (1 - 1e-6):
        return []
    return [
        f"Training ended at an ε of {trained:.4g}, but the model is evaluated at attack.epsilon = {epsilon:.4g}: the "
        f"warm-up of ε had not ended, and robust accuracy may be far too low. Lower attack.warmup or "
        f"attack.warmup_epochs, or train longer."
    ]


def out_of_reach(attack: Attack, effect: str = "robust accuracy may be far too high") -> list[str]:
    """A warning if an attack's steps are too short to cross its ball, as by a step size that was given."""
    distance = attack.steps * attack.alpha
    if distance >= attack.epsilon * (1 - 1e-6):
        return []
    return [
        f"{attack.steps} steps of {attack.alpha:.4g} move an image by {distance:.4g} at most, and ε is "
        f"{attack.epsilon:.4g}: the attack does not reach the edge of its ball, and {effect}. Leave the step size out "
        f"(2.5·ε/steps), or raise the steps."
    ]


def too_small(epsilon: float) -> list[str]:
    """A warning if no image of 8 bits can hold a change of that size."""
    if not 0 < epsilon < HALF_LEVEL:
        return []
    return [
        f"ε = {epsilon:.3g} is less than half a grey level (1/510 = {HALF_LEVEL:.3g}, images in [0, 1]): an image of 8 "
        f"bits cannot hold such a change, and nearly every network is robust. Was it divided by 255 twice?"
    ]


PROBABILITIES = (
    "The model returns probabilities (each row sums to one), not logits: where they are near 0 or 1 the attack has "
    "almost no gradient, and robust accuracy may be too high. Return the values before the softmax."
)


FAINT_LOGITS = (
    "The model is right far more often than it is confident: its logits are nearly equal. There the cross-entropy "
    "pushes towards all other classes at once, which is a weaker attack, and robust accuracy may be too high. "
    "Evaluate by AutoAttack, or multiply the logits by a constant."
)


RANDOM_LOGITS = (
    "The model is random, or looks at the other images of a batch: further passes of the same images in eval mode, or "
    "of half of them, give other logits. A gradient of one pass is a weaker attack on the next one, and robust "
    "accuracy may be too high. Make the model deterministic, of each image alone, or attack its mean over many passes."
)


def _non_finite_logits(found: Findings) -> str:
    return (
        f"{_of(found.non_finite_logits, found.samples)} had logits that are not finite, on the clean or a changed "
        f"image; they count as wrong. Look in the model for a division, root or logarithm of 0, an overflow, or a "
        f"class that is masked by -inf (mask it by -1e9)."
    )


def _zero_gradients(found: Findings) -> str:
    return (
        f"{_of(found.zero_gradients, found.robust, 'robust examples')} met a gradient of exactly zero, so that the "
        f"attack did not move them: robust accuracy may be too high by up to "
        f"{100 * found.zero_gradients / found.samples:.1f} points. Evaluate by AutoAttack, whose Square attack needs "
        f"no gradient, and look in the model for rounding or saturation."
    )


def _non_finite_gradients(found: Findings) -> str:
    return (
        f"{_of(found.non_finite_gradients, found.samples)} had gradients with entries that are not finite. These were "
        f"taken as 0, which weakens the attack: robust accuracy may be too high. Look in the model for a root, "
        f"logarithm, norm or division whose slope at 0 is infinite."
    )


def _of(count: int, total: int, what: str = "examples") -> str:
    return f"{count} of {total} {what} ({100 * count / total:.1f} %)"
