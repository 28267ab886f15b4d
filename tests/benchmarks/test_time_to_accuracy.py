"""How the attacks of a training are cut for a number of devices."""

from __future__ import annotations

from benchmarks.time_to_accuracy import BATCH, EXAMPLES, cut, steps_of


def test_a_batch_is_cut_evenly_and_every_part_has_the_steps_of_its_examples() -> None:
    counts = [8] * 4 + [2] * 3 + [0] * 3
    parts = cut(counts, 4)
    assert [part.examples for part in parts] == [2, 3, 2, 3]
    assert sum(sum(part.steps) for part in parts) == sum(counts)
    assert parts[0].steps == (2,) * 8 and parts[1].steps == (2,) * 6 + (3, 3) and parts[3].steps == ()


def test_the_trial_before_a_run_is_no_part_of_it() -> None:
    noted = [[7, 7], *[[2] * 16] * (EXAMPLES // 16), [2] * (EXAMPLES % 16)]
    steps = steps_of({"steps": noted})
    assert sum(map(len, steps)) == EXAMPLES and {count for step in steps for count in step} == {2}
    assert len(steps[0]) == BATCH and len(steps_of({"steps": []})[-1]) == EXAMPLES % BATCH
