"""Modes of the caller change no figure, and threads that use one model wait for each other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparring
from sparring.attacks import PGD
from sparring.errors import UsageError
from sparring.machine.modes import alone_with, usual_modes
from tests.support.batches import images, network_with_batch_norm
from tests.support.runs import small, weights_of


@contextmanager
def float64_by_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


MODES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "float64": float64_by_default,
}
every_mode = pytest.mark.parametrize("mode", MODES.values(), ids=MODES.keys())


@every_mode
def test_inside_all_is_as_usual_and_afterwards_as_before(mode: Callable[[], AbstractContextManager[object]]) -> None:
    def now() -> tuple[bool, ...]:
        return (
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.is_autocast_enabled("cpu"),
            torch.get_default_dtype() is torch.float32,
        )

    with mode():
        before = now()
        with pytest.raises(KeyError), usual_modes():
            assert now() == (True, False, False, True)
            raise KeyError
        assert now() == before


@every_mode
def test_a_figure_is_that_without_the_mode(
    mode: Callable[[], AbstractContextManager[object]],
) -> None:
    seen: list[torch.dtype] = []
    model, (x, y) = network_with_batch_norm().eval(), images()
    model.register_forward_hook(lambda module, inputs, logits: seen.append(logits.dtype))
    expected = sparring.evaluate(model, (x, y), epsilon=0.1, steps=3, restarts=1, per_example=True)
    with mode():
        found = sparring.evaluate(model, (x, y), epsilon=0.1, steps=3, restarts=1, per_example=True)
    assert found.verdicts is not None and expected.verdicts is not None
    assert torch.equal(found.verdicts.robust, expected.verdicts.robust) and set(seen) == {torch.float32}


@pytest.mark.parametrize("mode", ["autocast", "float64"])
def test_a_run_is_the_same_in_it(mode: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    def trained() -> bytes:
        return weights_of(sparring.train(small(tmp_path_factory.mktemp("run"), engine="sync"), progress=False))

    expected = trained()
    with MODES[mode]():
        assert trained() == expected


def test_threads_wait_for_each_other_and_the_model_is_left_as_it_was() -> None:
    """It trains, so that its statistics would change in train mode, and with them the figures."""
    model, (x, y) = network_with_batch_norm().train(), images()
    inside: list[int] = []
    most = 0

    class Spy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = model

        def forward(self, x: Tensor) -> Tensor:
            nonlocal most
            inside.append(1)
            most = max(most, len(inside), 2 * self.training)
            logits: Tensor = self.network(x)
            inside.pop()
            return logits

    spy, found = Spy(), list[float]()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def evaluate() -> None:
        found.append(sparring.evaluate(spy, (x, y), epsilon=0.1, steps=5, restarts=1).robust_accuracy)
        PGD(0.1, steps=2)(spy, x, y)

    threads = [threading.Thread(target=evaluate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 4 and len(set(found)) == 1 and most == 1
    assert spy.training and all(each.requires_grad for each in spy.parameters())
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_models_do_not_wait_for_other_models_nor_a_thread_for_itself() -> None:
    one, two = nn.Linear(1, 1), nn.Linear(1, 1)
    with alone_with(one), alone_with(two), alone_with(one):
        other = threading.Thread(target=lambda: alone_with(nn.Linear(1, 1)).__enter__())
        other.start()
        other.join(10)
        assert not other.is_alive()
    cat: Any = "cat"
    with pytest.raises(UsageError, match="model is a str"), alone_with(cat):
        pass
