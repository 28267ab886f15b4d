"""A process computes where the settings say, or says why it cannot."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparring.errors import SparringError
from sparring.machine.devices import device_for, device_of, of_other_precision


@pytest.mark.parametrize(
    ("name", "num_gpus", "device"),
    [("auto", 0.0, "cpu"), ("auto", 0.25, "cuda"), ("cpu", 1.0, "cpu"), ("cuda", 0.0, "cuda")],
)
def test_auto_is_the_gpu_where_a_part_of_one_is_reserved(
    name: str, num_gpus: float, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_for(name, num_gpus) == torch.device(device)


@pytest.mark.parametrize(("name", "num_gpus"), [("cuda", 0.0), ("auto", 0.5)])
def test_a_gpu_that_is_not_there_is_refused_with_both_settings(
    name: str, num_gpus: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SparringError, match=rf"trainer\.device = '{name}' with num_gpus = {num_gpus:g}: CUDA is not"):
        device_for(name, num_gpus)
    assert device_for("auto", 0.0) == torch.device("cpu")


def test_a_model_is_where_its_weights_are_and_one_without_any_is_on_the_cpu() -> None:
    assert device_of(nn.Linear(2, 2, device="meta")) == torch.device("meta")
    buffers_alone = nn.BatchNorm1d(2, affine=False, device="meta")
    assert device_of(buffers_alone) == torch.device("meta")
    assert device_of(nn.Flatten()) == torch.device("cpu")


def test_weights_of_another_precision_are_named_with_the_remedy() -> None:
    assert of_other_precision(nn.Linear(2, 2)) == of_other_precision(nn.Flatten()) == ""
    assert "weights are bfloat16, float32: pass model.float()" in of_other_precision(
        nn.Sequential(nn.Linear(2, 2).bfloat16(), nn.Linear(2, 2))
    )
    assert "model.precision = 'bf16'" in of_other_precision(nn.Linear(2, 2).half())
