"""The dashboards: every panel and its queries as Python values.

`grafana` writes them as Grafana's JSON, `benchmarks.dashboards` draws them without one.
"""

from __future__ import annotations

from sparring.observe.dashboards.pipeline import PIPELINE
from sparring.observe.dashboards.run import RUN
from sparring.observe.dashboards.workers import WORKERS

DASHBOARDS = (RUN, PIPELINE, WORKERS)
RUNS = "label_values(sparring_up, run)"  # the choices for `$run`

# Exported metrics that no panel shows, and why.
LEFT_OUT = {
    "sparring_info": "describes the run in its labels; used by the alerts",
    "sparring_worker_info": "describes in its labels where a worker runs",
    "sparring_payload_servers_down": "is 0 unless a server is away, for which there is an alert",
    "sparring_heldout_examples": "does not change while a run goes on",
    "sparring_rolling_examples": "does not change while a run goes on",
    "sparring_kept_examples": "changes at most once in a run, at the pruning",
    "sparring_pruning_seconds_total": "grows at most once in a run, at the pruning",
    "sparring_full_attack_seconds_total": "is part of sparring_allocator_wallclock_speedup",
}
