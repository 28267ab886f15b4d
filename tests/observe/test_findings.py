"""What is wrong with many steps or examples is told with its count, what is wrong with a few is not."""

from __future__ import annotations

import pytest

from sparring.observe.findings import findings
from sparring.observe.state import RunState


@pytest.mark.parametrize(
    ("count", "sentence"),
    [
        (
            "steps_without_gradient",
            "In 11 of 1,000 training steps the loss gave every weight a gradient of exactly zero",
        ),
        ("unmoved_steps", "In 11 of 1,000 training steps the attack took gradients and moved no example"),
        ("attack_zero_gradients", "In 11 of 1,000 examples trained on the attack met a gradient of exactly zero"),
        ("attack_non_finite_gradients", "In 11 of 1,000 examples trained on the attack met entries of a gradient"),
    ],
)
def test_more_than_a_hundredth_is_told(count: str, sentence: str) -> None:
    state = RunState(step=1000, examples=1000)
    setattr(state, count, 10)
    assert findings(state) == []
    setattr(state, count, 11)
    (told,) = findings(state)
    assert told.startswith(sentence) and told.endswith("See the run's logs.")


@pytest.mark.parametrize(("guard", "told"), [(0.02, True), (0.5, False), (None, False)])
def test_a_network_that_has_overfitted_before_the_guards_first_look_is_told(guard: float | None, told: bool) -> None:
    found = findings(RunState(train_robust_accuracy=0.72, guard_accuracy=guard))
    assert bool(found) == told and all("leaves 2.0% of a training batch, the recipe's 72.0%" in text for text in found)
