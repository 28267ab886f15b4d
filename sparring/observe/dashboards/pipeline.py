"""The dashboard of the pipeline between workers and trainer: which of them waits for the other."""

from __future__ import annotations

from sparring.observe.dashboards.queries import Dashboard, Panel, Query, now, rate, ratio

PIPELINE = Dashboard(
    "sparring-pipeline",
    "Sparring: Pipeline",
    "Who waits for whom. If the trainer waits, more workers help. If workers wait for tickets, more do not help.",
    (
        Panel(
            "Stalls",
            "Seconds of waiting per second. For workers the mean.",
            "percentunit",
            (
                rate("sparring_trainer_wait_seconds_total", "trainer waits for {{reason}}", by="reason"),
                Query(
                    'avg by (reason) (rate(sparring_worker_wait_seconds_total{run="$run"}[$__rate_interval]))',
                    "workers wait for {{reason}}",
                ),
            ),
            width=12,
        ),
        Panel(
            "Work",
            "Seconds of work per second. For workers the mean.",
            "percentunit",
            (
                rate("sparring_step_seconds_total", "trainer steps"),
                Query('avg(rate(sparring_worker_busy_seconds_total{run="$run"}[$__rate_interval]))', "workers attack"),
            ),
            width=12,
        ),
        Panel(
            "Queue",
            "Shards by state. outstanding: issued, not yet consumed; leased: being attacked; ready: to be trained on.",
            "short",
            (
                now("sparring_shards_outstanding", "outstanding"),
                now("sparring_shards_leased", "leased"),
                now("sparring_shards_ready", "ready"),
            ),
        ),
        Panel(
            "Shards consumed",
            "Per second, by the process that attacked them.",
            "short",
            (rate("sparring_shards_consumed_total", "{{source}}", by="source"),),
            "stacked",
        ),
        Panel(
            "Memory of the queue's server",
            "At the limit, workers wait before they send payloads (back-pressure).",
            "bytes",
            (now("sparring_queue_bytes", "used"), now("sparring_queue_limit_bytes", "limit")),
        ),
        Panel(
            "Network",
            "Bytes per second into and out of the queue's server, for all clients, and of published weights (small "
            "weights go through the same server).",
            "Bps",
            (
                rate("sparring_queue_network_bytes_total", "queue {{direction}}", by="direction"),
                rate("sparring_snapshot_publish_bytes_total", "weights"),
            ),
        ),
        Panel(
            "Seconds per snapshot",
            "How long the publication of the weights takes, in parallel with training steps. If the trainer waits for "
            "it, that is a stall.",
            "s",
            (ratio("sparring_snapshot_publish_seconds_total", "sparring_snapshot_publications_total", "one snapshot"),),
        ),
        Panel(
            "Steps and snapshots",
            "Per second.",
            "short",
            (
                rate("sparring_steps_total", "steps"),
                rate("sparring_snapshot_publications_total", "snapshots"),
                rate("sparring_refresh_steps_total", "refresh steps"),
            ),
        ),
        Panel(
            "Seconds since",
            "The last report of the run's state, and the last checkpoint.",
            "s",
            (
                Query('time() - sparring_state_updated_timestamp_seconds{run="$run"}', "state"),
                Query('time() - sparring_checkpoint_timestamp_seconds{run="$run"}', "checkpoint"),
            ),
        ),
        Panel(
            "Restarts",
            "Restarts of a trainer that died, and the fence, which grows with every start, resume and restart.",
            "short",
            (now("sparring_trainer_restarts_total", "trainer restarts"), now("sparring_fence", "fence")),
        ),
        Panel(
            "Gradient evaluations",
            "For the attacks on consumed shards, per second; and examples whose attack met a gradient of zero, or "
            "entries that are not finite.",
            "short",
            (
                rate("sparring_gradient_evaluations_total", "gradients"),
                rate("sparring_attack_zero_gradient_examples_total", "examples, zero"),
                rate("sparring_attack_non_finite_gradient_examples_total", "examples, not finite"),
            ),
        ),
    ),
)
