"""Random numbers depend on what they are for and on nothing else."""

from __future__ import annotations

import pytest
import torch

from sparring.randomness import generator, seeded

KEYS: list[tuple[int, str, tuple[int, ...]]] = [
    (0, "attack", (1, 2)),
    (1, "attack", (1, 2)),
    (0, "augment", (1, 2)),
    (0, "attack", (2, 1)),
    (0, "attack", (12,)),
    (0, "attack", (1, 2, 0)),
    (0, "attack", ()),
]


def numbers(seed: int, purpose: str, keys: tuple[int, ...]) -> list[float]:
    return torch.rand(4, generator=generator(seed, purpose, *keys)).tolist()


def test_the_same_key_gives_the_same_numbers_and_every_other_key_others() -> None:
    assert [numbers(*key) for key in KEYS] == [numbers(*key) for key in KEYS]
    assert len({tuple(numbers(*key)) for key in KEYS}) == len(KEYS)


def test_who_drew_before_and_the_global_state_make_no_difference() -> None:
    expected = numbers(*KEYS[0])
    torch.manual_seed(99)
    before = torch.get_rng_state()
    numbers(*KEYS[1])
    assert numbers(*KEYS[0]) == expected and torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("key", "seed"), [(KEYS[0], 5416109447286850435), (KEYS[3], 7357458882970609301), (KEYS[6], 3338994869036862582)]
)
def test_streams_are_those_of_earlier_releases_so_that_runs_can_be_resumed(
    key: tuple[int, str, tuple[int, ...]], seed: int
) -> None:
    name, purpose, keys = key
    assert generator(name, purpose, *keys).initial_seed() == seed


def test_dropout_depends_on_the_key_alone_and_leaves_the_global_stream_as_it_was() -> None:
    ones, cpu = torch.ones(1000), torch.device("cpu")

    def dropped(*keys: int) -> torch.Tensor:
        with seeded(cpu, 0, "step", *keys):
            return torch.nn.functional.dropout(ones, 0.5)

    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = dropped(7)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(dropped(7), first) and not torch.equal(dropped(8), first)
