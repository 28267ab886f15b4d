from __future__ import annotations

import json
import re
from dataclasses import replace
from math import ceil
from pathlib import Path

import numpy as np
import pytest
import torch

from sparring.cli import main
from sparring.commands import explain as explaining
from sparring.commands.calibration import Measured
from sparring.commands.explain import explain, inequalities, predict
from sparring.commands.verdict import core_seconds
from sparring.config import Config, depth, from_tree, trainer_attacks
from sparring.errors import UsageError
from sparring.queue.ledger import Ledger
from sparring.queue.sizing import outstanding_bytes
from sparring.trainer.plan import Plan
from tests.support.measured import measured

MANY_CORES = 10_000


def machine(attack_s: float, step_s: float = 0.01, *, cores: int = MANY_CORES, encode_s: float = 0.0) -> Measured:
    return measured(attack_s, step_s, cores=cores, encode_s=encode_s)


def recipe(
    workers: int = 4,
    shards: int = 4,
    depth: int = 3,
    bound: int = 4,
    own: str = "always",
    exchange: bool = False,
    **more: int,
) -> Config:
    staleness = {"max_staleness": bound, "depth": depth, "trainer_attacks": own, "exchange": exchange, **more}
    return from_tree({"workers": {"count": workers}, "train": {"shards_per_step": shards}, "staleness": staleness})


def plan_of(config: Config) -> Plan:
    return Plan(64_000, 64, config.train.shards_per_step, config.train.epochs, 0)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("as_json", [False, True])
def test_a_recipe_that_would_stand_still_is_explained_and_not_run(
    as_json: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["--staleness.max_staleness", "2", "--staleness.publish_every", "6"]
    monkeypatch.setattr("sys.argv", ["sparring", "explain", *(["--json"] if as_json else []), *settings])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().out
    assert ended.value.code == 1
    assert "max_staleness >= publish_every - 1 fails (2 < 5)" in said and "refused" in said
    assert not as_json or json.loads(said)["ok"] is False


@pytest.mark.usefixtures("quick")
def test_the_demo_is_predicted_from_what_this_machine_takes() -> None:
    reported = explain(Config())
    measured, predicted = reported.measured, reported.predicted
    assert reported.verdict.startswith("Use ") and reported.as_dict()["choices"][0]["engine"] == "sync"
    assert 0 < measured.attack_core_s == measured.attack_one_s and measured.alone_s > 0
    assert reported.ok and predicted.useful_workers == measured.attack_s / measured.step_s
    assert predicted.steps == 30 * ceil(1437 / 64)
    assert json.loads(json.dumps(reported.as_dict()))["predicted"]["steps"] == predicted.steps
    assert {"", "value"} == set(reported.rows()[0])


def test_data_that_training_refuses_are_not_explained(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8), np.uint8)
    for split in ("train", "test"):
        np.savez(tmp_path / f"one-{split}.npz", images=images, labels=np.zeros(20, np.int64))
    with pytest.raises(UsageError, match="all training labels are 0"):
        explain(from_tree({"engine": "sync", "data": {"name": f"npz:{tmp_path / 'one'}"}}))


def test_free_takes_the_time_of_its_steps_alone() -> None:
    config = from_tree({"engine": "sync", "train": {"epochs": 4, "replays": 4}, "attack": {"name": "fgsm"}})
    reported = predict(config, machine(0.08), Plan(6400, 64, 1, 1, 0, replays=4))
    assert reported.steps == 400 and reported.duration_s == pytest.approx(400 * 0.01)


@pytest.mark.parametrize(("objective", "batch_s"), [("pgd-at", 2 * 0.01), ("trades", 0.08 / 3 + 0.01)])
def test_yopo_takes_the_time_of_its_full_passes(objective: str, batch_s: float) -> None:
    tree = {"engine": "sync", "objective": {"name": objective}, "attack": {"steps": 6}, "yopo": {"passes": 2}}
    config = from_tree({**tree, "train": {"epochs": 4}})
    reported = predict(config, machine(0.08), Plan(6400, 64, 1, 4, 0))
    assert reported.steps == 400 and reported.duration_s == pytest.approx(400 * batch_s)
    assert "YOPO-2-3" in explaining._remarks(config, machine(0.08), reported)[-1]


@pytest.mark.usefixtures("quick")
def test_the_synchronous_engine_has_no_queue_and_no_staleness() -> None:
    reported = explain(from_tree({"engine": "sync", "train": {"max_steps": 10}}))
    assert reported.ok and reported.predicted.steps == 10
    assert reported.predicted.outstanding_shards is None and reported.predicted.max_staleness == 0
    assert "workers" in reported.remarks[-1]


def test_the_allocators_speed_up_is_told_for_the_papers_fractions() -> None:
    config = from_tree({"allocator": {"name": "bullettrain"}, "attack": {"steps": 10}})
    measured = replace(machine(attack_s=10.0, step_s=1.5), forward_s=0.4)
    reported = explaining._remarks(config, measured, predict(config, measured, plan_of(config)))
    assert (
        f"equation 7 gives a speed-up of {11 / 4.88:.2f} over" in reported[0]
        and f"at most {11.5 / 5.78:.2f} is possible" in reported[0]
    )


@pytest.mark.usefixtures("quick")
def test_times_of_a_cpu_are_not_passed_off_as_those_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    reported = explain(from_tree({"workers": {"num_gpus": 0.5}}))
    assert "not of a GPU" in reported.remarks[0]


@pytest.mark.parametrize("exchange", [False, True])
@pytest.mark.parametrize("ratio", [0.5, 7.2, 40.0])
def test_predicted_permits_are_those_that_the_ledger_gives(ratio: float, exchange: bool) -> None:
    config = recipe(exchange=exchange)
    plan = plan_of(config)
    ledger = Ledger(
        shards_by_epoch=plan.shards_by_epoch,
        shards_per_step=plan.shards_per_step,
        depth=depth(config.staleness),
        max_staleness=config.staleness.max_staleness,
    )
    found = predict(config, machine(0.01 * ratio), plan)
    attackers = config.workers.count + (1 if trainer_attacks(config) else 0)
    assert found.outstanding_shards == ledger.permits(max(4, min(attackers, ceil(ratio))) if exchange else None)
    assert found.outstanding_bytes == found.outstanding_shards * 1000
    assert found.redis_maxmemory_bytes == int(1.3 * (outstanding_bytes(config, (1, 28, 28)) + 3 * 100)) + (64 << 20)


@pytest.mark.parametrize(
    ("ratio", "workers", "shards", "depth", "simulated"),
    [
        *((8, 1, 2, 3, 0.9), (8, 2, 2, 3, 1.7), (8, 4, 4, 3, 2.0), (8, 8, 8, 2, 2.0), (8, 8, 2, 3, 3.0)),
        *((8, 16, 16, 2, 2.0), (32, 8, 8, 2, 1.7), (32, 16, 16, 2, 1.6), (32, 32, 32, 2, 2.0), (32, 32, 8, 3, 3.0)),
    ],
)
def test_mean_staleness_is_what_a_simulation_of_the_permits_found(
    ratio: float, workers: int, shards: int, depth: int, simulated: float
) -> None:
    """The figures that M and depth are chosen by."""
    config = recipe(workers, shards, depth)
    found = predict(config, machine(0.01 * ratio), plan_of(config))
    assert found.mean_staleness == pytest.approx(simulated, abs=0.5)


def test_exchange_lets_only_the_last_attack_step_age() -> None:
    slow = machine(1.0)
    plain, exchanged = (predict(config, slow, plan_of(config)) for config in (recipe(), recipe(exchange=True)))
    assert exchanged.mean_staleness < plain.mean_staleness


def test_rarer_broadcasts_make_shards_older() -> None:
    often, rarely = (
        predict(config, machine(0.1), plan_of(config)) for config in (recipe(bound=9), recipe(bound=9, publish_every=4))
    )
    assert rarely.mean_staleness == pytest.approx(often.mean_staleness + 1.5)
    assert (often.max_staleness, rarely.max_staleness) == (4, 7)


@pytest.mark.parametrize(
    ("workers", "own", "speedup"),
    [(2, "always", 3), (2, "never", 2 * (1 + 1 / 8)), (20, "always", 9), (20, "never", 9)],
)
def test_ideal_speedup_ends_where_the_trainer_is_saturated(workers: int, own: str, speedup: float) -> None:
    config = recipe(workers, own=own)
    found = predict(config, machine(0.08), plan_of(config))
    assert found.ideal_speedup == pytest.approx(speedup)
    assert found.bottleneck == ("the trainer's step" if workers == 20 else "the workers' attack")
    assert found.shards_per_second == pytest.approx(speedup / 0.09)
    assert found.duration_s == pytest.approx(30 * 1000 / found.shards_per_second)


def test_the_cores_of_one_machine_bound_the_work_of_all_processes() -> None:
    config = recipe(workers=8)
    found = predict(config, machine(0.08, cores=2), plan_of(config))
    assert found.bottleneck == "the cores"
    work = core_seconds(config, machine(0.08, cores=2))
    assert found.shards_per_second == pytest.approx(2 / work)
    assert found.speedup == pytest.approx(2 * 0.09 / work) and found.ideal_speedup == pytest.approx(9)


def test_without_workers_and_without_the_trainer_nothing_is_made() -> None:
    config = recipe(workers=0, own="never")
    found = predict(config, machine(0.08), plan_of(config))
    assert found.shards_per_second == 0 and found.duration_s is None


@pytest.mark.parametrize(("encode_s", "warned"), [(0.001, False), (0.2, True)])
def test_latency_above_a_step_is_warned_of(encode_s: float, warned: bool) -> None:
    config = recipe()
    measured = machine(0.08, encode_s=encode_s)
    remarks = explaining._remarks(config, measured, predict(config, measured, plan_of(config)))
    latency = [remark for remark in remarks if remark.startswith("Latency")]
    assert bool(latency) == warned
    assert not warned or "(3 + 1 + 5 <= 4) fails" in latency[0]


def test_steps_that_are_too_small_for_the_workers_are_told() -> None:
    config = recipe(workers=31, shards=2)
    measured = machine(0.32)
    predicted = predict(config, measured, plan_of(config))
    assert predicted.shards_per_step_needed == 16
    assert any("train.shards_per_step = 2" in each for each in explaining._remarks(config, measured, predicted))


@pytest.mark.parametrize(
    ("bound", "depth", "publish_every", "expected"),
    [
        (4, 3, 1, [True, True, True]),
        (4, 3, 2, [True, True, False]),
        (2, 3, 1, [True, False, False]),
        (2, 0, 4, [False, True, False]),
    ],
)
def test_every_inequality_is_told_with_whether_it_holds(
    bound: int, depth: int, publish_every: int, expected: list[bool]
) -> None:
    found = inequalities(recipe(depth=depth, bound=bound, publish_every=publish_every).staleness)
    assert [holds for _, holds in found] == expected


@pytest.mark.usefixtures("quick")
def test_views_have_no_attack_steps_to_time_and_travel_as_two_images() -> None:
    bullettrain = {"name": "bullettrain", "robust_steps": 0}
    method = {"attack": {"name": "augmix"}, "objective": {"name": "augmix"}, "allocator": bullettrain}
    measured = explain(from_tree({"engine": "sync", **method})).measured
    assert measured.attack_s > 0 and measured.step_s > 0
    assert 0 <= measured.payload_bytes - 64 * (8 + 2 * 64) <= 512


@pytest.mark.parametrize(("ranks", "tickets", "speedup"), [(2, 2, 2.0), (2, 3, 1.5), (4, 4, 4.0), (3, 4, 2.0)])
def test_data_parallel_ranks_wait_for_the_one_with_most_tickets(ranks: int, tickets: int, speedup: float) -> None:
    config = from_tree({"engine": "ddp", "ddp": {"ranks": ranks}, "train": {"shards_per_step": tickets}})
    predicted = predict(config, machine(0.08), plan_of(config))
    assert predicted.speedup == pytest.approx(speedup)
    assert predicted.shards_per_second == pytest.approx(speedup / 0.09)


@pytest.mark.parametrize(
    ("workers", "said"),
    [
        (4, r"ddp\.ranks = 5\) would be 5 times .*: about as fast as this engine at its best"),
        (16, r"ddp\.ranks = 17\) would be 17 times .*: faster than this engine, whose trainer is saturated at 9\.0"),
    ],
)
def test_where_data_parallelism_would_be_the_better_choice_is_said(workers: int, said: str) -> None:
    config, measured = recipe(workers=workers, shards=16, depth=2), machine(0.08)
    remarks = explaining._remarks(config, measured, predict(config, measured, plan_of(config)))
    assert any(re.search(said, remark) for remark in remarks), remarks


def test_where_all_share_the_cores_of_one_machine_one_process_is_said_to_do() -> None:
    config, measured = recipe(workers=4), machine(0.08, cores=2)
    remarks = explaining._remarks(config, measured, predict(config, measured, plan_of(config)))
    assert "engine = sync or ddp uses the same cores without staleness" in remarks[-1]
    assert not any("times as fast as the synchronous" in remark for remark in remarks)
