"""Looks at runs agree with figures that are computed by hand."""

from __future__ import annotations

import base64

import pytest
import torch

from sparring.commands.evaluate import load_model
from sparring.lab.study import Point
from sparring.lab.work import Place, measure
from tests.support.studies import DIGITS

KEPT = {"checkpoint.every_steps": 2, "checkpoint.keep": 10}
RUN = Point("train", {}, {**DIGITS, **KEPT, "engine": "simulated"})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(None, tmp_path_factory.mktemp("runs"))
    measure(RUN, place)
    return place


def test_classes_are_shares_of_all_examples(place: Place) -> None:
    series = measure(Point("classes", {}, options={"samples": 100}, needs=(RUN,)), place)["series"]
    assert series["step"] == [2, 4, 6]
    for shares in zip(*(series[f"{name}_share"] for name in ("outlier", "boundary", "robust")), strict=True):
        assert sum(shares) == pytest.approx(1)
    assert all(each is None or each < 0 for each in series["outlier_variance"])
    assert all(each is None or each >= 0 for each in series["robust_variance"])


def test_perturbations_are_compared_over_the_checkpoints(place: Place) -> None:
    from sparring.attacks import PGD
    from sparring.config import config_of
    from sparring.data import Sample, load
    from sparring.evaluation.tickets import examples_at
    from sparring.trainer import checkpoints

    found = measure(Point("cycle", {}, options={"samples": 4}, needs=(RUN,)), place)
    assert (
        found["steps"] == [2, 4, 6] and found["similarity"][0] == pytest.approx(1, abs=1e-5) and found["samples"] == 4
    )
    run = place.run_of(RUN)
    config, model = config_of(run), load_model(run.path)
    x, y = examples_at(Sample(load(config.data, "test"), 4), range(4))
    deltas = []
    for path in checkpoints.steps_in(run.checkpoints):
        checkpoints.load_weights(path, model)
        attack = PGD(epsilon=config.attack.epsilon, steps=config.attack.steps, start="zero")
        deltas.append(attack(model, x, y, return_delta=True))
    apart = [torch.nn.functional.cosine_similarity(deltas[0][i].flatten(), deltas[2][i].flatten(), 0) for i in range(4)]
    assert found["similarity"][2] == pytest.approx(float(torch.stack(apart).mean()), abs=1e-5)
    last = torch.tensor(list(base64.b64decode(found["strip"][-1]))).reshape(x.shape[1:])
    assert torch.allclose(last / 255, (x[0] + deltas[2][0]).clamp(0, 1), atol=1 / 255)


def test_an_embedding_tells_apart_what_is_apart(place: Place) -> None:
    point = Point("embed", {}, {"data.name": "digits"}, {"samples": 300, "shown": 40})
    found = measure(point, place)
    assert found["samples"] == 300 and found["density"] > 0 and 0 < found["separation"] < 16
    x, y, labels = zip(*found["shown"], strict=True)
    assert len(x) == 40 and set(labels) <= set(range(10)) and len(set(labels)) > 5
    assert max(map(abs, [*x, *y])) < 5, "each axis has variance 1"


def test_the_clock_gives_the_speed_up_of_the_paper(place: Place) -> None:
    base = {"attack.steps": 8, "virtual.attack_example_s": 1e-4, "virtual.step_example_s": 1e-4, "virtual.jitter": 0.0}
    waits = {"staleness.trainer_attacks": "never", "staleness.max_staleness": 50}
    alone, two, many = (
        measure(Point("clock", {}, {**base, **waits, "workers.count": count}), place)["speed_up"]
        for count in (0, 1, 12)
    )
    assert alone == 1 and two == pytest.approx(9 / 8, rel=0.05), "the trainer waits for eight attack steps of nine"
    assert many == pytest.approx(9, rel=0.05), "the trainer alone limits"
