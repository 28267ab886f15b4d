"""MI-FGSM as an example: the paper's algorithm, with a momentum that stays with its example."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.mi_fgsm import MIFGSM
from sparring.attacks import PGD
from sparring.errors import UsageError
from tests.support.examples import ROOT, run_command_of
from tests.support.own_methods import example, perturbations, trained
from tests.support.runs import weights_of

NAMED = {"name": example("mi_fgsm.py:MIFGSM")}


def as_in_the_paper(model: nn.Module, x: Tensor, y: Tensor, epsilon: float, steps: int, decay: float) -> Tensor:
    """Algorithm 1 of Dong et al. in float64, one image at a time: perturbations."""
    found = []
    for image, label in zip(x, y, strict=True):
        attacked, momentum = image.clone(), torch.zeros_like(image)
        for _ in range(steps):
            attacked.requires_grad_(True)
            loss = F.cross_entropy(model(attacked[None]), label[None])
            (gradient,) = torch.autograd.grad(loss, attacked)
            momentum = decay * momentum + gradient / gradient.abs().sum()
            attacked = attacked.detach() + epsilon / steps * momentum.sign()
            attacked = torch.minimum(torch.maximum(attacked, image - epsilon), image + epsilon).clamp(0, 1)
        found.append(attacked - image)
    return torch.stack(found)


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_it_is_the_algorithm_of_the_paper(decay: float) -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.rand(16, 2, 5, 5, generator=random, dtype=torch.float64)
    y = torch.randint(4, (16,), generator=random)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(50, 20), nn.Tanh(), nn.Linear(20, 4)).double()
    delta = MIFGSM(0.1, steps=6, decay=decay)(model, x, y, return_delta=True)
    assert torch.allclose(delta, as_in_the_paper(model, x, y, 0.1, 6, decay), atol=1e-7, rtol=0)  # α is float32
    plain = PGD(0.1, steps=6, step_size=0.1 / 6, start="zero")(model, x, y, return_delta=True)
    assert torch.allclose(delta, plain, atol=1e-7, rtol=0) == (decay == 0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("allocator", ["none", "bullettrain"])
def test_in_slots_no_example_inherits_the_momentum_of_another(norm: str, allocator: str) -> None:
    attack = MIFGSM(0.2, norm=norm, steps=5, step_size=0.08, start="uniform")
    alone, in_slots = (perturbations(attack, slots, allocator) for slots in (0, 16))
    assert torch.allclose(alone, in_slots, atol=1e-6, rtol=0)


def test_it_is_trained_with_from_its_file_and_its_option_counts(tmp_path: Path) -> None:
    runs = [trained(tmp_path, "sync", attack={**NAMED, "options": {"decay": decay}}) for decay in (1.0, 0.25)]
    assert weights_of(runs[0]) != weights_of(runs[1])


@pytest.mark.parametrize(
    ("options", "said"),
    [({"decay": -1}, "decay = -1: a number from 0 on"), ({"deacy": 1}, r"attack\.options\.deacy = 1: no such option")],
)
def test_a_wrong_option_is_refused_by_name(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        trained(tmp_path, "sync", attack={**NAMED, "options": options})


def test_it_trains_by_the_command_that_it_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert run_command_of(ROOT / "examples" / "mi_fgsm.py", tmp_path).summary["steps"] == 2
