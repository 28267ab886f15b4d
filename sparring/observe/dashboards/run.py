"""The dashboard of one run: does it learn, how stale is what it learns from, how fast is it."""

from __future__ import annotations

from sparring.observe.dashboards.queries import Dashboard, Panel, Query, mean, now, rate, ratio

RUN = Dashboard(
    "sparring-run",
    "Sparring: Run",
    "Does it learn, how stale is what it learns from, and how fast is it.",
    (
        Panel(
            "Progress",
            "Steps made of all that the run takes.",
            "percentunit",
            (Query('sparring_steps_total{run="$run"} / sparring_planned_steps{run="$run"}', "of all steps"),),
            "number",
            4,
        ),
        Panel(
            "Epoch",
            "Counted from 0, as in the records.",
            "short",
            (now("sparring_epoch", "epoch"), now("sparring_planned_epochs", "of")),
            "number",
            4,
        ),
        Panel(
            "Examples trained on",
            "Since the run began, resumes included.",
            "short",
            (now("sparring_examples_total", "examples"),),
            "number",
            4,
        ),
        Panel(
            "Mean staleness",
            "Exact, of the shards that were trained on in the window.",
            "short",
            (mean("sparring_staleness_steps", "steps"),),
            "number",
            4,
        ),
        Panel(
            "Bound",
            "No step trains on a shard staler than this.",
            "short",
            (now("sparring_max_staleness_steps", "steps"),),
            "number",
            4,
        ),
        Panel(
            "Dropped",
            "Share of shards lost or thrown away; their tickets are issued again.",
            "percentunit",
            (
                Query(
                    f"{rate('sparring_shards_dropped_total', '').expr} / "
                    f"({rate('sparring_shards_dropped_total', '').expr} + "
                    f"{rate('sparring_shards_consumed_total', '').expr})",
                    "dropped",
                ),
            ),
            "number",
            4,
        ),
        Panel(
            "Accuracy",
            "Robust accuracy on held-out examples is what counts; on training batches it is higher, and under stale "
            "attacks it flatters. The overfitting guard's is under PGD-5 on a training batch.",
            "percentunit",
            (
                now("sparring_robust_accuracy", "robust, held out"),
                now("sparring_clean_accuracy", "clean, held out"),
                now("sparring_train_robust_accuracy", "robust, training"),
                now("sparring_guard_accuracy", "guard"),
            ),
        ),
        Panel("Loss", "Mean of the last 50 steps.", "short", (now("sparring_loss", "loss"),)),
        Panel(
            "Fresh minus stale",
            "Accuracy and loss under a fresh attack less those under the stale one on the same shard. Accuracy well "
            "below 0: staleness weakens the attack.",
            "short",
            (
                now("sparring_fresh_minus_stale_accuracy", "accuracy"),
                now("sparring_fresh_minus_stale_loss", "loss"),
            ),
        ),
        Panel(
            "Staleness of consumed shards",
            "Shards by their staleness when they were trained on, in steps.",
            "short",
            (Query('sum by (le) (increase(sparring_staleness_steps_bucket{run="$run"}[$__rate_interval]))', "{{le}}"),),
            "heatmap",
        ),
        Panel(
            "Mean staleness and the bound",
            "In flight: until the shard reached the trainer. In queue: from then until it was trained on.",
            "short",
            (
                mean("sparring_staleness_steps", "mean"),
                mean("sparring_staleness_in_flight_steps", "in flight"),
                mean("sparring_staleness_in_queue_steps", "in queue"),
                now("sparring_max_staleness_steps", "bound"),
            ),
        ),
        Panel(
            "Drift",
            "Path length of the weights since a shard's version, relative to their norm, mean over shards. Comparable "
            "between step sizes, as steps are not.",
            "short",
            (ratio("sparring_drift_total", "sparring_staleness_steps_count", "mean drift"),),
        ),
        Panel(
            "Throughput",
            "Examples trained on a second: now, and mean since the run began.",
            "short",
            (rate("sparring_examples_total", "now"), now("sparring_examples_per_second", "mean of the run")),
        ),
        Panel(
            "Speed-up against synchronous",
            "Seconds of work (attacks and steps) done in each second: what the same work would take one after the "
            "other, at the pace that it has here. Workers that share cores or a GPU slow each other down, and the "
            "estimate flatters by as much; a synchronous run on the same machine is the measurement.",
            "short",
            (
                Query(
                    f"({rate('sparring_attack_seconds_total', '').expr} + "
                    f"{rate('sparring_step_seconds_total', '').expr}) / {rate('sparring_run_seconds_total', '').expr}",
                    "estimate",
                ),
            ),
        ),
        Panel(
            "Drops by reason",
            "Shards a second that were lost or thrown away. stale: beyond the bound.",
            "short",
            (rate("sparring_shards_dropped_total", "{{reason}}", by="reason"),),
            "stacked",
        ),
        Panel(
            "ε",
            "Radius of the attack; it grows over attack.warmup_epochs.",
            "short",
            (now("sparring_epsilon", "ε"),),
            width=6,
        ),
        Panel("Learning rate", "By the schedule.", "sci", (now("sparring_learning_rate", "rate"),), width=6),
        Panel(
            "Guards",
            "Remedies against staleness that are switched on, decisions about them, returns to good weights after "
            "overfitting or numbers that were none, steps skipped in fp16.",
            "short",
            (
                now("sparring_staleness_guard_level", "staleness remedies"),
                now("sparring_staleness_guard_decisions_total", "{{decision}}"),
                now("sparring_overfittings_total", "overfittings"),
                now("sparring_rollbacks_total", "rollbacks"),
                now("sparring_skipped_steps_total", "skipped steps"),
            ),
            width=6,
        ),
        Panel(
            "Given up",
            "Tickets set aside after too many lost attempts: an epoch lacks their examples.",
            "short",
            (now("sparring_shards_set_aside_total", "set aside"),),
            width=6,
        ),
    ),
)
