"""What studies share changes by name and leaves the base as it was."""

from __future__ import annotations

from sparring.lab.studies.settings import MADRY, MNIST_QUICK, by_size, with_seed


def test_changes_are_named_with_underscores_for_dots() -> None:
    found = with_seed(MNIST_QUICK, 3, attack__steps=2, simulated__staleness=4)
    assert (found["train.seed"], found["attack.steps"], found["simulated.staleness"]) == (3, 2, 4)
    assert "train.seed" not in MNIST_QUICK and MNIST_QUICK["attack.steps"] == 8
    assert by_size("quick", MNIST_QUICK, MADRY) is MNIST_QUICK and by_size("full", MNIST_QUICK, MADRY) is MADRY
