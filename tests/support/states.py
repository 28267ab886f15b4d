"""A run in the middle of its training, every reading taken, and the heartbeats of its workers."""

from __future__ import annotations

from collections import Counter
from typing import Any

from sparring.observe.state import RunState


def full_state() -> RunState:
    """Ten shards of mean staleness 1.7; three shards dropped for two reasons."""
    return RunState(
        phase="training",
        engine="ray",
        dataset="digits",
        step=120,
        total_steps=600,
        epoch=5,
        epochs=30,
        examples=7680,
        seconds=60.0,
        examples_per_second=128.0,
        loss=1.25,
        learning_rate=0.002,
        epsilon=0.15,
        train_robust_accuracy=0.551,
        guard_accuracy=0.58,
        clean_accuracy=0.931,
        robust_accuracy=0.612,
        heldout_samples=512,
        heldout_interval=(0.569, 0.653),
        heldout_attack="PGD-10",
        rolling_version=100,
        rolling_clean_accuracy=0.92,
        rolling_accuracy=0.57,
        rolling_interval=(0.51, 0.63),
        rolling_samples=256,
        rolling_attack="AutoAttack of (apgd-ce, apgd-t), linf 0.3",
        rolling_best=0.59,
        rolling_best_version=80,
        rolling_judged_version=115,
        rolling_judged=64,
        rolling_judged_robust=37,
        fresh_minus_stale=-0.02,
        fresh_minus_stale_loss=0.03,
        staleness_level=2,
        staleness_decisions=Counter({"tightened": 3, "relaxed": 1}),
        max_staleness=4,
        staleness=Counter({0: 2, 1: 3, 2: 2, 3: 2, 4: 1}),
        in_flight=Counter({0: 6, 1: 4}),
        in_queue=Counter({0: 2, 1: 3, 2: 5}),
        drift_sum=0.5,
        dropped=Counter({"stale": 2, "lease_expired": 1}),
        set_aside=1,
        evaluation={
            "examples": 100,
            "judged": 40,
            "robust": 20,
            "known": 5,
            "tickets": 8,
            "tickets_done": 3,
            "workers": 2,
            "deaths": 1,
            "seconds_left": 60.0,
        },
        missing=64,
        outstanding=6,
        leased=2,
        ready=3,
        queue_bytes=3 * 2**20,
        queue_limit_bytes=64 * 2**20,
        queue_received_bytes=5 * 10**7,
        queue_sent_bytes=6 * 10**7,
        wait_seconds={"no_shard": 4.5, "publish": 1.5},
        step_seconds=20.0,
        attack_seconds=30.0,
        full_attack_seconds=80.0,
        theoretical_speedup=2.3,
        gradients=61440,
        attack_zero_gradients=37,
        attack_non_finite_gradients=5,
        kept=24_000,
        pruning_seconds=12.5,
        robust_share=0.44,
        allocated=Counter({"outlier": 90, "boundary": 140, "robust": 270}),
        trainer_shards=3,
        worker_shards=7,
        refresh_steps=2,
        publications=118,
        publish_seconds=0.7,
        publish_bytes=10**7,
        version=119,
        fence=2,
        workers_wanted=2,
        checkpointed=1_700_000_000.0,
        trainer_restarts=1,
        updated=1_700_000_010.0,
        message="worker w2 came back",
    )


def heartbeats(count: int = 2) -> dict[str, dict[str, Any]]:
    """Workers w0, w1, …, each busy three quarters of its time."""
    return {f"w{index}": heartbeat(index) for index in range(count)}


def heartbeat(index: int) -> dict[str, Any]:
    return {
        "shards": 40 + index,
        "gradients": 20480,
        "busy_seconds": 30.0,
        "judge_seconds": 4.0,
        "judged_pieces": 3,
        "wait_seconds": {"no_ticket": 8.0, "snapshot": 2.0},
        "abandoned": 1,
        "attack_seconds": 0.75,
        "version": 118,
        "time": 1_700_000_008.0,
        "swaps": 5,
        "pid": 100 + index,
        "node": "node-a",
        "allocated": {"outlier": 45, "boundary": 70, "robust": 135},
        "gpu_memory_bytes": 6 * 2**30,
        "gpu_memory_limit_bytes": 80 * 2**30,
        "gpu_utilisation": 0.93,
    }
