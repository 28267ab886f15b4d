"""What is known of a batch is not done again, and a damaged line costs its batch alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparring.config import DataSettings
from sparring.data import Sample, load
from sparring.evaluation.memory import Done, Memory, Results
from sparring.evaluation.outcomes import Outcomes, clean_outcomes
from sparring.evaluation.tickets import InProcess, each_on_all


class Summing:
    """Sums labels, and counts how often."""

    def __init__(self) -> None:
        self.batches = 0

    def __call__(self, models: Sequence[nn.Module], x: Tensor, y: Tensor, progress: Any) -> int:
        self.batches += 1
        if self.batches > 5:
            raise KeyboardInterrupt
        return int(y.sum())


@pytest.fixture
def sample() -> Sample:
    return Sample(load(DataSettings(), "test"), 35)


def results(folder: Path, **identity: Any) -> Results:
    made = Results(folder, "sums", {"weights": "a", **identity})
    with made.owned():
        made.begin()
    return made


def asked(sample: Sample, kept: Results | None, work: Summing, names: Sequence[str] = ("one", "two")) -> list[Any]:
    memory: Memory[int] = Memory(kept, sample.indices.tolist(), names, lambda found: found, int)
    judges = InProcess([nn.Linear(1, 1)])
    return each_on_all(judges, sample, [lambda places: work] * len(names), 10, memory=memory)


def test_an_evaluation_that_dies_goes_on_where_it_was(sample: Sample, tmp_path: Path) -> None:
    labels = [sum(part) for part in (each.tolist() for each in torch.split(sample.labels, 10))]
    with pytest.raises(KeyboardInterrupt):
        asked(sample, results(tmp_path), Summing())
    rest = Summing()
    assert asked(sample, results(tmp_path), rest) == [labels, labels] and rest.batches == 3
    again = Summing()
    assert asked(sample, results(tmp_path), again) == [labels, labels] and again.batches == 0
    assert asked(sample, results(tmp_path), again, ("one", "three"))[1] == labels and again.batches == 4
    other = Summing()
    with pytest.raises(KeyboardInterrupt):
        asked(sample, results(tmp_path, seed=1), other)


def test_without_a_file_everything_is_Done(sample: Sample) -> None:
    work = Summing()
    assert len(asked(sample, None, work, ("one",))[0]) == 4 == work.batches


@pytest.mark.parametrize("line", ['{"work": 1, "examples": [1], "result": 1}', '{"work": "one"}', "[]", "no json", ""])
def test_a_line_that_is_no_result_is_passed_over(tmp_path: Path, line: str) -> None:
    kept = results(tmp_path)
    kept.add([Done("one", (1, 2), 3)])
    kept.path.write_text(kept.path.read_text() + line + "\n")
    assert kept.entries() == [Done("one", (1, 2), 3)]


def test_a_line_that_was_altered_is_passed_over(tmp_path: Path) -> None:
    kept = results(tmp_path)
    kept.add([Done("one", (1, 2), [True, True])])
    kept.path.write_text(kept.path.read_text().replace("[true, true]", "[true, false]"))
    assert kept.entries() == []


def test_lines_of_earlier_versions_are_read(tmp_path: Path) -> None:
    kept = results(tmp_path)
    kept.add([Done("one", (1, 2), [True, True])])
    line = '{"work": "one", "examples": [1, 2], "result": [true, true], "digest": "257db088d1769849"}'
    assert kept.path.read_text().splitlines()[1] == line


def test_a_result_that_cannot_be_read_is_made_again(sample: Sample, tmp_path: Path) -> None:
    kept = results(tmp_path)
    kept.add([Done("one", tuple(sample.indices[:10].tolist()), "no number")])
    work = Summing()
    asked(sample, kept, work, ("one",))
    assert work.batches == 4


def test_outcomes_come_back_as_they_were(sample: Sample) -> None:
    images = sample.images(torch.arange(35)).float() / 255
    found = clean_outcomes(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), images, sample.labels)
    back = Outcomes.of_plain(found.cpu().plain())
    for name in found.plain():
        assert (
            torch.equal(getattr(back, name), getattr(found, name))
            and getattr(back, name).dtype == getattr(found, name).dtype
        )
    with pytest.raises(ValueError, match="one value for each example"):
        Outcomes.of_plain({**found.plain(), "robust": [True]})
