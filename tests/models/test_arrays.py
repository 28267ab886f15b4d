"""Weights that travel in bf16 lose nothing that an attack in bf16 would see."""

from __future__ import annotations

import torch
from safetensors.numpy import load, save
from torch import nn

from sparring.config import ModelSettings
from sparring.models.arrays import load_arrays, to_arrays
from sparring.models.forward import for_training


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3)).eval()


def test_a_snapshot_in_bf16_is_half_as_large_and_passes_the_same_under_autocast() -> None:
    settings = ModelSettings(precision="bf16")
    model, worker = (for_training(network(seed), settings) for seed in (0, 1))
    arrays = to_arrays(model, half=True)
    load_arrays(worker, load(save(arrays)))
    x = torch.rand(5, 1, 8, 8)
    assert torch.equal(worker(x), model(x))
    there, sent = worker.state_dict(), model.state_dict()
    assert [name for name in sent if not torch.equal(there[name], sent[name])] == ["0.weight", "3.weight"]
    assert sum(a.nbytes for a in arrays.values()) < 0.6 * sum(a.nbytes for a in to_arrays(model).values())
    load_arrays(worker, to_arrays(model))
    assert all(torch.equal(worker.state_dict()[name], tensor) for name, tensor in sent.items())
