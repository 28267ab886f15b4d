"""The dashboard of the workers and their GPUs."""

from __future__ import annotations

from sparring.observe.dashboards.queries import Dashboard, Panel, Query, now, rate

ALIVE_S = 30
GPU = "the workers have no NVIDIA GPU"
ALLOCATOR = "the run has no allocator"

WORKERS = Dashboard(
    "sparring-workers",
    "Sparring: Workers",
    "Activity of each worker and its GPU.",
    (
        Panel(
            "Workers",
            f"The worker target, and the workers that have reported in the last {ALIVE_S} s.",
            "short",
            (
                now("sparring_workers_wanted", "target"),
                Query(
                    "count(time() - sparring_worker_last_heartbeat_timestamp_seconds"
                    f'{{run="$run"}} < {ALIVE_S}) or vector(0)',
                    "reporting",
                ),
            ),
        ),
        Panel(
            "Shards",
            "Per second, by worker.",
            "short",
            (rate("sparring_worker_shards_total", "{{worker}}", by="worker"),),
        ),
        Panel(
            "Gradient evaluations",
            "Per second, by worker.",
            "short",
            (rate("sparring_worker_gradient_evaluations_total", "{{worker}}", by="worker"),),
        ),
        Panel(
            "Busy",
            "Share of time in which a worker attacks.",
            "percentunit",
            (
                rate("sparring_worker_busy_seconds_total", "{{worker}}", by="worker"),
                rate("sparring_worker_judge_seconds_total", "{{worker}} judges", by="worker"),
            ),
        ),
        Panel(
            "Waits",
            "Seconds of waiting per second, by worker and reason.",
            "percentunit",
            (rate("sparring_worker_wait_seconds_total", "{{worker}}: {{reason}}", by="worker, reason"),),
        ),
        Panel(
            "Attack on one shard",
            "Time from the beginning of the attack to its end.",
            "s",
            (now("sparring_worker_attack_seconds", "{{worker}}"),),
        ),
        Panel(
            "Versions",
            "Version of the latest published weights, and of the weights that each worker attacks with. Each process "
            "reports about once a second, so in fast runs the lines differ by some steps.",
            "short",
            (
                now("sparring_snapshot_version", "published"),
                now("sparring_worker_snapshot_version", "{{worker}}"),
            ),
        ),
        Panel(
            "In-flight exchange",
            "How often per second a worker loaded newer weights between two attack steps.",
            "short",
            (rate("sparring_worker_swaps_total", "{{worker}}", by="worker"),),
        ),
        Panel(
            "Abandoned",
            "Shards per second that a worker abandoned before they were finished.",
            "short",
            (rate("sparring_worker_abandoned_total", "{{worker}}", by="worker"),),
        ),
        Panel(
            "Allocated",
            "Share of a worker's examples by the allocator's class.",
            "percentunit",
            (
                Query(
                    f"{rate('sparring_worker_allocated_examples_total', '', by='worker, class').expr} "
                    f"/ on (worker) group_left () "
                    f"{rate('sparring_worker_allocated_examples_total', '', by='worker').expr}",
                    "{{worker}}: {{class}}",
                ),
            ),
            absent=ALLOCATOR,
        ),
        Panel(
            "Allocated in all consumed shards",
            "Share of examples by the allocator's class, and F_R, its target for robust examples.",
            "percentunit",
            (
                Query(
                    f"{rate('sparring_allocated_examples_total', '', by='class').expr} "
                    f"/ scalar({rate('sparring_allocated_examples_total', '').expr})",
                    "{{class}}",
                ),
                now("sparring_allocator_robust_share", "F_R"),
            ),
            absent=ALLOCATOR,
        ),
        Panel(
            "Speed-up by the allocator",
            "Theoretical, by equation 7 of Hua et al., and in seconds of work.",
            "short",
            (
                now("sparring_allocator_theoretical_speedup", "theory"),
                now("sparring_allocator_wallclock_speedup", "seconds of work"),
            ),
            absent=ALLOCATOR,
        ),
        Panel(
            "Memory of the GPU",
            "Of the whole GPU: workers that share a GPU report the same value.",
            "bytes",
            (
                now("sparring_worker_gpu_memory_bytes", "{{worker}}"),
                now("sparring_worker_gpu_memory_limit_bytes", "{{worker}}: limit"),
            ),
            width=12,
            absent=GPU,
        ),
        Panel(
            "Utilisation of the GPU",
            "Share of time in which the GPU computed anything.",
            "percentunit",
            (now("sparring_worker_gpu_utilisation_ratio", "{{worker}}"),),
            width=12,
            absent=GPU,
        ),
    ),
)
