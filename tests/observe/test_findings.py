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
