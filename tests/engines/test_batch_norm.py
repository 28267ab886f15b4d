"""Batch norm over all ranks is, with one rank, torch's own."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import FileStore  # type: ignore[attr-defined]

from sparring.engines.batch_norm import Synchronised, synchronise


@pytest.mark.parametrize("options", [{}, {"momentum": None}, {"affine": False}])
@pytest.mark.parametrize("of", [nn.BatchNorm2d, nn.BatchNorm1d])
def test_values_gradients_and_statistics_are_those_of_torch(
    tmp_path: Path, of: type[nn.BatchNorm2d], options: dict[str, bool | None]
) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(of(5, **options)).double()  # type: ignore[arg-type]
    over_all = copy.deepcopy(plain)
    synchronise(over_all)
    assert isinstance(over_all[0], Synchronised) and over_all.state_dict().keys() == plain.state_dict().keys()
    shape = (7, 5, 3, 2) if of is nn.BatchNorm2d else (7, 5)
    dist.init_process_group("gloo", store=FileStore(str(tmp_path / "meeting"), 1), rank=0, world_size=1)
    try:
        for _ in range(2):
            images = (3 + 2 * torch.randn(shape, dtype=torch.float64)).requires_grad_()
            made, expected = over_all(images), plain(images)
            assert torch.allclose(made, expected, atol=1e-12)
            one, other = (torch.autograd.grad((each**3).sum(), images)[0] for each in (made, expected))
            assert torch.allclose(one, other, atol=1e-9)
    finally:
        dist.destroy_process_group()
    for name, tensor in plain.state_dict().items():
        assert torch.allclose(over_all.state_dict()[name], tensor, atol=1e-12), name
    assert torch.allclose(over_all.eval()(images), plain.eval()(images), atol=1e-12), "no group is needed then"


def test_layers_without_running_statistics_stay_as_they_are() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.GroupNorm(1, 3))
    synchronise(network)
    assert [type(layer) for layer in network] == [nn.BatchNorm2d, nn.GroupNorm]
