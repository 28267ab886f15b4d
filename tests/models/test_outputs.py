"""How many logits a model gives is asked of the model, which is left as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparring.errors import UsageError
from sparring.models.outputs import outputs_of

X = torch.zeros(1, 1, 4, 4)


class Pair(nn.Module):
    """Logits and something else."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x: float32 [N, 1, 4, 4]."""
        return x.flatten(1), x


def test_it_is_asked_in_eval_mode_and_nothing_of_it_changes() -> None:
    norm = nn.BatchNorm2d(1)  # counts batches in train mode
    model = nn.Sequential(norm, nn.Flatten(), nn.Linear(16, 7)).train()
    assert outputs_of(model, X, classes=7) == outputs_of(model, X, classes=2) == 7
    assert model.training and norm.training and norm.num_batches_tracked == 0
    assert all(each.requires_grad and each.grad is None for each in model.parameters())


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("resnet", "model is a str: a torch.nn.Module is needed"),
        (nn.Linear(3, 10), r"model cannot take images of \(1, 4, 4\) \(RuntimeError: mat1 and mat2"),
        (nn.Flatten(0), r"model returns \(16,\) for one image: logits of shape \(1, classes\) are needed"),
        (Pair(), "model returns tuple for one image"),
        (nn.Sequential(nn.Flatten(), nn.Linear(16, 4)), "model returns 4 logits, but data has 5 classes"),
    ],
)
def test_what_is_no_model_of_such_images_is_refused(model: Any, reason: str) -> None:
    with pytest.raises(UsageError, match=f"^{reason}"):
        outputs_of(model, X, classes=5)


def test_weights_of_another_precision_are_refused_with_the_remedy() -> None:
    half = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).half()
    with pytest.raises(UsageError, match=r"weights are float16: pass model\.float\(\)"):
        outputs_of(half, torch.rand(1, 1, 4, 4), 3)
