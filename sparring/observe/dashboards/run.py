"""The dashboard of one run: learning, staleness, speed."""

from __future__ import annotations

from sparring.observe.dashboards.queries import Dashboard, Panel, Query, mean, now, rate, ratio

RUN = Dashboard(
    "sparring-run",
    "Sparring: Run",
    "Learning, staleness and speed of a run.",
    (
        Panel(
            "Progress",
            "Share of the run's steps that are done.",
            "percentunit",
            (Query('sparring_steps_total{run="$run"} / sparring_planned_steps{run="$run"}', "of all steps"),),
            "number",
            4,
        ),
        Panel(
            "Epoch",
            "Counted from 0, as in metrics.jsonl.",
            "short",
            (now("sparring_epoch", "epoch"), now("sparring_planned_epochs", "of")),
            "number",
            4,
        ),
        Panel(
            "Examples trained on",
            "Since the beginning of the run, including those before a resume.",
            "short",
            (now("sparring_examples_total", "examples"),),
            "number",
            4,
        ),
        Panel(
            "Mean staleness",
            "Exact mean over the shards that were trained on in the time window.",
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
            "Share of shards that were lost or discarded; their tickets are issued again.",
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
            "Robust accuracy on held-out examples is the reliable one. On training batches it is higher, more so under "
            "stale attacks. guard: under PGD-5 on a training batch, measured by the overfitting guard.",
            "percentunit",
            (
                now("sparring_robust_accuracy", "robust, held out"),
                now("sparring_clean_accuracy", "clean, held out"),
                now("sparring_train_robust_accuracy", "robust, training"),
                now("sparring_guard_accuracy", "guard"),
            ),
        ),
        Panel(
            "Accuracy by AutoAttack",
            "On held-out examples, judged by workers that would wait (evaluation.rolling), with its 95 % interval. The "
            "best checkpoint is chosen by it.",
            "percentunit",
            (
                now("sparring_rolling_robust_accuracy", "robust"),
                now("sparring_rolling_robust_accuracy_bound", "robust, {{end}}"),
                now("sparring_rolling_best_robust_accuracy", "best"),
                now("sparring_rolling_clean_accuracy", "clean"),
            ),
            absent="evaluation.rolling is off",
        ),
        Panel(
            "Judged versions",
            "The last version that was judged by AutoAttack, and how many examples of the one that is judged now are.",
            "short",
            (
                now("sparring_rolling_version", "last judged version"),
                now("sparring_rolling_judged_examples", "examples judged"),
            ),
            absent="evaluation.rolling is off",
        ),
        Panel("Loss", "Mean of the last 50 steps.", "short", (now("sparring_loss", "loss"),)),
        Panel(
            "Fresh minus stale",
            "Accuracy and loss under a fresh attack minus those under the stale attack on the same shard. If accuracy "
            "is well below 0, staleness weakens the attack.",
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
            "Path length of the weights since a shard's version, relative to their norm, mean over shards. Unlike "
            "staleness in steps, it can be compared between learning rates.",
            "short",
            (ratio("sparring_drift_total", "sparring_staleness_steps_count", "mean drift"),),
        ),
        Panel(
            "Throughput",
            "Examples trained on per second: now, and mean since the beginning of the run.",
            "short",
            (rate("sparring_examples_total", "now"), now("sparring_examples_per_second", "mean of the run")),
        ),
        Panel(
            "Speed-up against synchronous",
            "Seconds of work (attacks and steps) per second: an estimate of the speed-up over a synchronous loop. It "
            "is too high if workers share cores or a GPU, because they slow each other down. To measure the speed-up, "
            "run engine sync on the same machine.",
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
            "Shards per second that were lost or discarded, entries of the queue that were refused. stale: above the "
            "staleness bound; copied: tickets that were issued a second time (staleness.copy_after).",
            "short",
            (
                rate("sparring_shards_dropped_total", "{{reason}}", by="reason"),
                rate("sparring_shards_copied_total", "copied"),
                rate("sparring_queue_entries_refused_total", "refused: {{what}}", by="what"),
            ),
            "stacked",
        ),
        Panel(
            "ε",
            "Radius of the attack; it grows over attack.warmup_epochs.",
            "short",
            (now("sparring_epsilon", "ε"),),
            width=6,
        ),
        Panel("Learning rate", "As given by the schedule.", "sci", (now("sparring_learning_rate", "rate"),), width=6),
        Panel(
            "Guards",
            "Remedies against staleness that are switched on, decisions about them, rollbacks after overfitting or "
            "non-finite values, and skipped fp16 steps.",
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
            "Set aside",
            "Tickets set aside after too many failed attempts; their examples are missing from the epoch.",
            "short",
            (now("sparring_shards_set_aside_total", "set aside"),),
            width=6,
        ),
        Panel(
            "Verdicts",
            "Of an evaluation by workers: examples, those that are judged, and of these the robust ones.",
            "short",
            (
                now("sparring_evaluation_examples", "all"),
                now("sparring_evaluation_judged_examples_total", "judged"),
                now("sparring_evaluation_robust_examples", "robust"),
            ),
            width=6,
        ),
        Panel(
            "Tickets of an evaluation",
            "Of the attack that is on, or of all attacks in mode fast.",
            "short",
            (now("sparring_evaluation_tickets", "all"), now("sparring_evaluation_done_tickets", "done")),
            width=6,
        ),
        Panel(
            "Workers of an evaluation",
            "Those that work, and how often one has died; its ticket was given to another.",
            "short",
            (
                now("sparring_evaluation_workers", "at work"),
                now("sparring_evaluation_worker_deaths_total", "deaths"),
            ),
            width=6,
        ),
        Panel(
            "Time left of an evaluation",
            "Of the attack that is on, or of all attacks in mode fast.",
            "s",
            (now("sparring_evaluation_left_seconds", "left"),),
            width=6,
        ),
    ),
)
