"""What the tests of the commands share."""

from __future__ import annotations

import pytest

from sparring.commands import calibration
from sparring.machine import timing


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every figure is measured for an instant only."""
    for module in (timing, calibration):
        monkeypatch.setattr(module, "BUDGET_S", 0.02)
