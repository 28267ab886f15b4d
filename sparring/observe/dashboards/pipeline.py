"""The dashboard of what lies between trainer and workers: who waits for whom."""

from __future__ import annotations

from sparring.observe.dashboards.queries import Dashboard, Panel, Query, now, rate, ratio

PIPELINE = Dashboard(
    "sparring-pipeline",
    "Sparring: Pipeline",
    "Who waits for whom. Where the trainer waits, more workers help; where workers wait for tickets, they do not.",
    (
        Panel(
            "Stalls",
            "Seconds of each second that were spent waiting. Of the workers the mean.",
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
            "Seconds of each second that were spent working. Of the workers the mean.",
            "percentunit",
            (
                rate("sparring_step_seconds_total", "trainer steps"),
                Query('avg(rate(sparring_worker_busy_seconds_total{run="$run"}[$__rate_interval]))', "workers attack"),
            ),
            width=12,
        ),
        Panel(
            "Queue",
            "Shards: issued and not yet consumed, attacked now, waiting to be trained on.",
            "short",
            (
                now("sparring_shards_outstanding", "outstanding"),
                now("sparring_shards_leased", "leased"),
                now("sparring_shards_ready", "ready"),
            ),
        ),
        Panel(
            "Shards consumed",
            "A second, by who attacked them.",
            "short",
            (rate("sparring_shards_consumed_total", "{{source}}", by="source"),),
            "stacked",
        ),
        Panel(
            "Memory of the queue's server",
            "At its limit payloads wait: back-pressure.",
            "bytes",
            (now("sparring_queue_bytes", "used"), now("sparring_queue_limit_bytes", "limit")),
        ),
        Panel(
            "Network",
            "Bytes a second into and out of the queue's server, of all its clients, and the weights that the trainer "
            "published (through the same server where they are small).",
            "Bps",
            (
                rate("sparring_queue_network_bytes_total", "queue {{direction}}", by="direction"),
                rate("sparring_snapshot_publish_bytes_total", "weights"),
            ),
        ),
        Panel(
            "Seconds of a snapshot",
            "How long the weights are on their way, beside the trainer's steps; what it waits for them is a stall.",
            "s",
            (ratio("sparring_snapshot_publish_seconds_total", "sparring_snapshot_publications_total", "one snapshot"),),
        ),
        Panel(
            "Steps and snapshots",
            "A second.",
            "short",
            (
                rate("sparring_steps_total", "steps"),
                rate("sparring_snapshot_publications_total", "snapshots"),
                rate("sparring_refresh_steps_total", "refresh steps"),
            ),
        ),
        Panel(
            "Seconds since",
            "The run told its state, and wrote a checkpoint.",
            "s",
            (
                Query('time() - sparring_state_updated_timestamp_seconds{run="$run"}', "state"),
                Query('time() - sparring_checkpoint_timestamp_seconds{run="$run"}', "checkpoint"),
            ),
        ),
        Panel(
            "Restarts",
            "Of a dead trainer, and the fence, which grows with every start, resume and restart.",
            "short",
            (now("sparring_trainer_restarts_total", "trainer restarts"), now("sparring_fence", "fence")),
        ),
        Panel(
            "Gradient evaluations",
            "Of the attacks on consumed shards, a second.",
            "short",
            (rate("sparring_gradient_evaluations_total", "gradients"),),
        ),
    ),
)
