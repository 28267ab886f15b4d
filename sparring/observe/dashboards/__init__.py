"""What the dashboards show: every panel with its queries, as values.

`grafana` writes them as Grafana's JSON, `benchmarks.dashboards` draws them without one.
"""

from __future__ import annotations

from sparring.observe.dashboards.pipeline import PIPELINE
from sparring.observe.dashboards.run import RUN
from sparring.observe.dashboards.workers import WORKERS

DASHBOARDS = (RUN, PIPELINE, WORKERS)
RUNS = "label_values(sparring_up, run)"  # what `$run` is chosen from

# Exported metrics that no panel shows, and why.
LEFT_OUT = {
    "sparring_info": "tells in labels what runs; the alerts ask for its phase",
    "sparring_worker_info": "tells in labels where a worker runs",
    "sparring_heldout_examples": "does not change while a run goes on",
    "sparring_kept_examples": "changes once in a run, where it is pruned",
    "sparring_pruning_seconds_total": "grows once in a run, where it is pruned",
    "sparring_full_attack_seconds_total": "is part of sparring_allocator_wallclock_speedup",
}
