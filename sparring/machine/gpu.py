"""What a worker's GPU is doing, as NVIDIA's driver tells it (NVML, through nvidia-ml-py)."""

from __future__ import annotations

import logging

import pynvml
import torch

log = logging.getLogger(__name__)


def gpu_reading(device: torch.device) -> dict[str, float]:
    """Memory in use and in all, in bytes, and the share of the last moment in which the GPU computed.

    Of the whole GPU, whoever uses it: workers that share one tell the same. Empty without an NVIDIA GPU, and where the
    driver does not tell (a part of a GPU under MIG).
    """
    if device.type != "cuda" or torch.version.cuda is None:
        return {}
    try:
        return {
            "gpu_memory_bytes": torch.cuda.device_memory_used(device),
            "gpu_memory_limit_bytes": torch.cuda.get_device_properties(device).total_memory,
            "gpu_utilisation": torch.cuda.utilization(device) / 100,
        }
    except (pynvml.NVMLError, RuntimeError) as error:
        log.debug("no reading of the GPU: %s", error)
        return {}
