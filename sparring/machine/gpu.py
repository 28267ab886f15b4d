"""Memory and utilisation of a worker's GPU, from NVIDIA's driver (NVML, through nvidia-ml-py)."""

from __future__ import annotations

import logging

import pynvml
import torch

log = logging.getLogger(__name__)


def gpu_reading(device: torch.device) -> dict[str, float]:
    """Memory in use and total memory, in bytes, and recent utilisation, in [0, 1].

    All values are of the whole GPU: workers that share a GPU report the same. Empty without an NVIDIA GPU, and if the
    driver has no values (a part of a GPU under MIG).
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
        log.debug("the GPU's state cannot be read: %s", error)
        return {}
