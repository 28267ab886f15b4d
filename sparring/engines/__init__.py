"""Ways to run the same training: sync (the textbook's loop), ddp (it on several processes), simulated, virtual, ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sparring.observe.state import RunState


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its phase, its last state, and the evaluation where it finished."""

    phase: str
    state: RunState
    evaluation: dict[str, Any] | None = None
