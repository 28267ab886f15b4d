"""The Prometheus endpoint of a run: one scrape target for the trainer, the queue and all workers.

`python -m sparring.observe.exporter` writes docs/metrics.md from `METRICS`. The sums of histograms are exact: they come
from the counters of `RunState`, not from the middles of buckets.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from threading import Thread
from types import TracebackType
from typing import Any
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from sparring.errors import SparringError
from sparring.observe.metrics import METRICS
from sparring.observe.readings import Labelled, Metric
from sparring.observe.state import RunState

BUCKETS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128)
_UP = next(metric for metric in METRICS if metric.name == "sparring_up")


def family(metric: Metric, labelled: Iterable[Labelled]) -> Family:
    """The values of one metric in the form of prometheus_client."""
    readings = [(labels, value) for labels, value in labelled if value is not None]
    if metric.type == "histogram":
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for labels, counts in readings:
            histogram.add_metric(labels, *_buckets(counts))
        return histogram
    kind = CounterMetricFamily if metric.type == "counter" else GaugeMetricFamily
    simple = kind(metric.name, metric.help, labels=metric.labels)
    for labels, value in readings:
        simple.add_metric(labels, value)
    return simple


def _buckets(counts: Mapping[int, int]) -> tuple[list[tuple[str, float]], float]:
    """Cumulative buckets and the exact sum of a histogram of whole steps."""
    steps = dict(counts)
    buckets = [(str(float(bound)), float(sum(n for value, n in steps.items() if value <= bound))) for bound in BUCKETS]
    buckets.append(("+Inf", float(sum(steps.values()))))
    return buckets, float(sum(value * n for value, n in steps.items()))


class _Collector(Collector):
    """Reads the run at each scrape. A failure to read sets sparring_up to 0; it is never an error of the scrape."""

    def __init__(self, read: Callable[[], tuple[RunState, dict[str, dict[str, Any]]]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Family]:
        try:
            state, workers = self._read()
            beats = dict(workers)
            return [family(metric, metric.source(state, beats)) for metric in METRICS]
        except Exception:  # any fault of the run must be visible in the scrape
            return [family(_UP, [((), 0)])]


class Exporter:
    """Serves `METRICS` over HTTP while the context is open.

    `read` returns the run's state and the latest heartbeat of each worker by its id. It is called in the server's
    threads, once per scrape, and should return within the scrape's timeout (10 seconds by default).
    """

    def __init__(self, bind: str, port: int, read: Callable[[], tuple[RunState, dict[str, dict[str, Any]]]]) -> None:
        self._bind, self._port = bind, port
        self._registry = CollectorRegistry()
        self._registry.register(_Collector(read))
        self._serving: tuple[WSGIServer, Thread] | None = None

    @property
    def port(self) -> int:
        """The port of the server; before the context is entered, the requested port."""
        return self._serving[0].server_port if self._serving else self._port

    def __enter__(self) -> Exporter:
        """Start the server.

        Raises:
            SparringError: the server cannot listen on the address.
        """
        try:
            self._serving = start_http_server(self._port, self._bind, self._registry)
        except OSError as error:
            raise SparringError(
                f"metrics.port = {self._port} cannot be listened on at metrics.bind = {self._bind} "
                f"({error.strerror}). Set metrics.port to another port, or to 0 for any free one."
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._serving is not None:
            server, thread = self._serving
            self._serving = None
            server.shutdown()
            server.server_close()
            thread.join()


def markdown() -> str:
    """The text of docs/metrics.md."""
    lines = [
        "# Metrics",
        "",
        "Metrics of a run's Prometheus endpoint (`metrics.bind`, `metrics.port`). This page is generated:",
        "`python -m sparring.observe.exporter > docs/metrics.md`.",
        "",
        "When a worker is restarted, its counters start at 0 again; Prometheus's `rate` and `increase` handle",
        "this. The exact mean staleness of the last five minutes is:",
        "",
        "    rate(sparring_staleness_steps_sum[5m]) / rate(sparring_staleness_steps_count[5m])",
        "",
        f"Histogram buckets, in steps: {', '.join(map(str, BUCKETS))}.",
        "",
        "| name | type | labels | meaning |",
        "| --- | --- | --- | --- |",
    ]
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{metric.name}` | {metric.type} | {labels} | {metric.help} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(markdown())
