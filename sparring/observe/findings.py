"""What the counts of a run say against its training. It stands beside the run's figures."""

from __future__ import annotations

from sparring.observe.state import RunState

TOLD_SHARE = 0.01  # of the steps or of the examples
APART = 0.3  # of accuracies: PGD breaks somewhat more than a single step in sound runs too


def findings(state: RunState) -> list[str]:
    """A sentence for each count that is above TOLD_SHARE."""
    counts = [
        (
            state.steps_without_gradient,
            state.step,
            "training steps the loss gave every weight a gradient of exactly zero: nothing was learned from them.",
        ),
        (
            state.unmoved_steps,
            state.step,
            "training steps the attack took gradients and moved no example: they were trained on clean images.",
        ),
        (
            state.attack_zero_gradients,
            state.examples,
            "examples trained on the attack met a gradient of exactly zero, which did not move them.",
        ),
        (
            state.attack_non_finite_gradients,
            state.examples,
            "examples trained on the attack met entries of a gradient that are not finite, which were taken as 0.",
        ),
    ]
    many = [each for each in counts if each[0] > TOLD_SHARE * each[1]]
    found = [f"In {count:,} of {of:,} {what} See the run's logs." for count, of, what in many]
    return [*found, *_overfitted(state.train_robust_accuracy, state.guard_accuracy)]


def _overfitted(train: float | None, guard: float | None) -> list[str]:
    """Where the guard's own attack breaks far more than the recipe's. A fall from the start on is none that it sees."""
    if train is None or guard is None or train - guard <= APART:
        return []
    return [
        f"The overfitting guard's attack leaves {guard:.1%} of a training batch, the recipe's {train:.1%} of the last "
        f"ones: the network has overfitted to the recipe's attack. Where it did so before the guard's first look there "
        f"was no fall to see; lower guard.overfitting_every, optimizer.lr or attack.epsilon."
    ]
