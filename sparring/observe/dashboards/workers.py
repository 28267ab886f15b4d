"""The dashboard of the workers and their GPUs."""

from __future__ import annotations

from sparring.observe.dashboards.queries import Dashboard, Panel, Query, now, rate

ALIVE_S = 30
GPU = "the workers have no NVIDIA GPU"
ALLOCATOR = "the run has no allocator"

WORKERS = Dashboard(
    "sparring-workers",
    "Sparring: Workers",
    "What every worker does, and what its GPU does.",
    (
        Panel(
            "Workers",
            f"Those that should be there, and those that have reported in the last {ALIVE_S} s.",
            "short",
            (
                now("sparring_workers_wanted", "wanted"),
                Query(
                    "count(time() - sparring_worker_last_heartbeat_timestamp_seconds"
                    f'{{run="$run"}} < {ALIVE_S}) or vector(0)',
                    "reporting",
                ),
            ),
        ),
        Panel(
            "Shards",
            "A second, by worker.",
            "short",
            (rate("sparring_worker_shards_total", "{{worker}}", by="worker"),),
        ),
        Panel(
            "Gradient evaluations",
            "A second, by worker.",
            "short",
            (rate("sparring_worker_gradient_evaluations_total", "{{worker}}", by="worker"),),
        ),
        Panel(
            "Busy",
            "Share of the time that a worker attacks.",
            "percentunit",
            (rate("sparring_worker_busy_seconds_total", "{{worker}}", by="worker"),),
        ),
        Panel(
            "Waits",
            "Seconds of each second, by worker and reason.",
            "percentunit",
            (rate("sparring_worker_wait_seconds_total", "{{worker}}: {{reason}}", by="worker, reason"),),
        ),
        Panel(
            "Attack on one shard",
            "From its first moment to its last.",
            "s",
            (now("sparring_worker_attack_seconds", "{{worker}}"),),
        ),
        Panel(
            "Versions",
            "The weights that were published last, and those that each worker attacks with. Each process tells its own "
            "once a second or so: in fast runs that alone is some steps.",
            "short",
            (
                now("sparring_snapshot_version", "published"),
                now("sparring_worker_snapshot_version", "{{worker}}"),
            ),
        ),
        Panel(
            "Weights swapped in",
            "Newer weights between two attack steps, a second.",
            "short",
            (rate("sparring_worker_swaps_total", "{{worker}}", by="worker"),),
        ),
        Panel(
            "Given up",
            "Shards a second that a worker gave up before it had finished them.",
            "short",
            (rate("sparring_worker_abandoned_total", "{{worker}}", by="worker"),),
        ),
        Panel(
            "Allocated",
            "Shares of a worker's examples that the allocator took for outliers, boundary and robust ones.",
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
            "Allocated by the run",
            "The same of all consumed shards, and F_R, which the allocator aims at for robust ones.",
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
            "In theory by equation 7 of Hua et al., and in seconds of work.",
            "short",
            (
                now("sparring_allocator_theoretical_speedup", "theory"),
                now("sparring_allocator_wallclock_speedup", "seconds of work"),
            ),
            absent=ALLOCATOR,
        ),
        Panel(
            "Memory of the GPU",
            "Of the whole GPU: workers that share one tell the same.",
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
            "Share of the time in which it computed anything.",
            "percentunit",
            (now("sparring_worker_gpu_utilisation_ratio", "{{worker}}"),),
            width=12,
            absent=GPU,
        ),
    ),
)
