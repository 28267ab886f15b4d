"""A worker's GPU is reported where there is one."""

from __future__ import annotations

import pytest
import torch

from sparring.machine.gpu import gpu_reading


def test_on_a_cpu_there_is_nothing_to_tell() -> None:
    assert gpu_reading(torch.device("cpu")) == {}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_memory_and_utilisation_are_those_of_the_gpu() -> None:
    held = torch.zeros(64 << 20, dtype=torch.uint8, device="cuda")
    reported = gpu_reading(held.device)
    assert len(held) <= reported["gpu_memory_bytes"] <= reported["gpu_memory_limit_bytes"]
    assert 0 <= reported["gpu_utilisation"] <= 1
