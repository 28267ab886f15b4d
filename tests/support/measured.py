"""Measurements of a machine that are chosen, for the tests of what is predicted from them."""

from __future__ import annotations

from sparring.commands.calibration import Measured


def measured(
    attack_s: float,
    step_s: float,
    *,
    cores: int = 2,
    gpus: int = 0,
    alone_s: float | None = None,
    encode_s: float = 0.0,
) -> Measured:
    """All cores are as fast as one for one process, unless `alone_s` says otherwise; with GPUs no core is busy."""
    on_cores = 0.0 if gpus else 1.0
    return Measured(
        shape=(1, 28, 28),
        device="cpu",
        cores=cores,
        worker_threads=1,
        trainer_threads=1,
        attack_s=attack_s,
        step_s=step_s,
        attack_core_s=attack_s * on_cores,
        step_core_s=step_s * on_cores,
        encode_s=encode_s,
        decode_s=0.0,
        payload_bytes=1000,
        round_trip_s=0.0,
        snapshot_bytes=100,
        snapshot_load_s=0.0,
        attack_one_s=attack_s,
        step_one_s=step_s,
        alone_s=attack_s + step_s if alone_s is None else alone_s,
        gpus=gpus,
    )
