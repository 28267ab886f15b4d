from __future__ import annotations

import math
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from sparring.errors import SparringError
from sparring.observe.exporter import BUCKETS, Exporter, markdown
from sparring.observe.metrics import METRICS
from sparring.observe.state import RunState
from tests.support.states import full_state, heartbeat, heartbeats

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
Read = Callable[[], tuple[RunState, dict[str, dict[str, Any]]]]


def scrape(exporter: Exporter, accept: str = "text/plain") -> str:
    request = urllib.request.Request(f"http://127.0.0.1:{exporter.port}/metrics", headers={"Accept": accept})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
        return str(answer.read().decode())


def samples(read: Read) -> Samples:
    """What a scrape gives, by name and labels."""
    with Exporter("127.0.0.1", 0, read) as exporter:
        families = list(parse_text(scrape(exporter)))
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def value(found: Samples, name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


@pytest.fixture(scope="module")
def full() -> Samples:
    return samples(lambda: (full_state(), heartbeats()))


def test_every_metric_of_the_table_is_exported_and_nothing_else(full: Samples) -> None:
    suffixes = ("_bucket", "_sum", "_count")
    histograms = {metric.name for metric in METRICS if metric.type == "histogram"}
    names = set()
    for name, _ in full:
        stem = next((name.removesuffix(end) for end in suffixes if name.removesuffix(end) in histograms), name)
        names.add(stem)
    assert names == {metric.name for metric in METRICS}


def test_mean_staleness_is_exact(full: Samples) -> None:
    total, count = value(full, "sparring_staleness_steps_sum"), value(full, "sparring_staleness_steps_count")
    assert (total, count) == (17.0, 10.0)


def test_buckets_are_cumulative_up_to_all_shards(full: Samples) -> None:
    counted = [value(full, "sparring_staleness_steps_bucket", le=f"{bound}.0") for bound in BUCKETS]
    assert counted == [2, 5, 7, 9, *[10] * (len(BUCKETS) - 4)]
    assert value(full, "sparring_staleness_steps_bucket", le="+Inf") == 10


def test_a_staleness_beyond_the_last_bucket_is_still_counted() -> None:
    found = samples(lambda: (RunState(staleness=Counter({500: 2})), {}))
    assert value(found, "sparring_staleness_steps_bucket", le="128.0") == 0
    assert value(found, "sparring_staleness_steps_bucket", le="+Inf") == 2
    assert value(found, "sparring_staleness_steps_sum") == 1000


@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        ("sparring_up", {}, 1),
        ("sparring_info", {"engine": "ray", "dataset": "digits", "phase": "training"}, 1),
        ("sparring_steps_total", {}, 120),
        ("sparring_shards_dropped_total", {"reason": "stale"}, 2),
        ("sparring_shards_dropped_total", {"reason": "lease_expired"}, 1),
        ("sparring_trainer_wait_seconds_total", {"reason": "no_shard"}, 4.5),
        ("sparring_shards_consumed_total", {"source": "trainer"}, 3),
        ("sparring_worker_shards_total", {"worker": "w1"}, 41),
        ("sparring_worker_wait_seconds_total", {"worker": "w0", "reason": "snapshot"}, 2),
        ("sparring_worker_allocated_examples_total", {"worker": "w0", "class": "robust"}, 135),
        ("sparring_worker_gpu_utilisation_ratio", {"worker": "w1"}, 0.93),
        ("sparring_queue_network_bytes_total", {"direction": "out"}, 6e7),
        ("sparring_worker_last_heartbeat_timestamp_seconds", {"worker": "w0"}, 1_700_000_008),
        ("sparring_worker_info", {"worker": "w1", "node": "node-a", "pid": "101"}, 1),
        ("sparring_fresh_minus_stale_accuracy", {}, -0.02),
        ("sparring_attack_zero_gradient_examples_total", {}, 37),
        ("sparring_attack_non_finite_gradient_examples_total", {}, 5),
    ],
)
def test_a_reading_arrives_with_its_labels(full: Samples, name: str, labels: dict[str, str], expected: float) -> None:
    assert value(full, name, **labels) == pytest.approx(expected, rel=1e-12)


def test_what_is_not_measured_is_absent_rather_than_zero() -> None:
    names = {name for name, _ in samples(lambda: (RunState(), {}))}
    assert not names & {"sparring_clean_accuracy", "sparring_robust_accuracy", "sparring_loss"}
    assert "sparring_steps_total" in names


def test_what_can_be_lost_is_counted_from_the_start_so_that_the_first_loss_shows_as_growth() -> None:
    found = samples(lambda: (RunState(dropped=Counter({"stale": 2, "new_reason": 1})), {}))
    dropped = {
        dict(labels)["reason"]: reported
        for (name, labels), reported in found.items()
        if name == "sparring_shards_dropped_total"
    }
    assert (dropped["stale"], dropped["lease_expired"], dropped["new_reason"]) == (2, 0, 1)


def test_a_worker_without_a_gpu_tells_nothing_of_one() -> None:
    beat = {name: value for name, value in heartbeat(0).items() if not name.startswith("gpu")}
    names = {name for name, _ in samples(lambda: (full_state(), {"w0": beat}))}
    assert not [name for name in names if "gpu" in name] and "sparring_worker_shards_total" in names


def test_a_diverged_loss_is_told() -> None:
    assert math.isnan(value(samples(lambda: (RunState(loss=math.nan), {})), "sparring_loss"))


def test_a_poor_heartbeat_hides_neither_the_run_nor_other_workers() -> None:
    beats = {"empty": {}, "odd": {"shards": "many", "wait_seconds": 3}, "good": heartbeat(0)}
    found = samples(lambda: (full_state(), beats))
    workers = {dict(labels)["worker"] for name, labels in found if name == "sparring_worker_shards_total"}
    assert workers == {"good"}
    assert value(found, "sparring_up") == 1


def test_a_failing_read_is_told_by_up_alone() -> None:
    def unreadable() -> tuple[RunState, dict[str, dict[str, Any]]]:
        raise ConnectionError("queue is gone")

    assert samples(unreadable) == {("sparring_up", frozenset()): 0}


def test_a_state_that_makes_no_sense_is_told_by_up_alone() -> None:
    nonsense: Any = RunState()
    nonsense.staleness = {"many": 3}
    assert samples(lambda: (nonsense, {})) == {("sparring_up", frozenset()): 0}


def test_each_scrape_reads_anew() -> None:
    state = full_state()
    with Exporter("127.0.0.1", 0, lambda: (state, {})) as exporter:
        assert "sparring_steps_total 120.0" in scrape(exporter)
        state.step = 121
        assert "sparring_steps_total 121.0" in scrape(exporter)


def test_openmetrics_is_served_to_who_asks_for_it() -> None:
    with Exporter("127.0.0.1", 0, lambda: (full_state(), heartbeats())) as exporter:
        text = scrape(exporter, "application/openmetrics-text; version=1.0.0")
    assert len(list(parse_openmetrics(text))) == len(METRICS)  # type: ignore[no-untyped-call]


def test_a_port_in_use_is_refused_with_the_remedy_and_free_again_after() -> None:
    with Exporter("127.0.0.1", 0, lambda: (RunState(), {})) as first:
        port = first.port
        with pytest.raises(SparringError, match=rf"metrics\.port = {port} .*another port, or to 0"):
            Exporter("127.0.0.1", port, lambda: (RunState(), {})).__enter__()
    with Exporter("127.0.0.1", port, lambda: (RunState(), {})) as second:
        assert second.port == port


def test_the_page_of_metrics_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "metrics.md"
    assert page.read_text() == markdown(), "python -m sparring.observe.exporter > docs/metrics.md"
