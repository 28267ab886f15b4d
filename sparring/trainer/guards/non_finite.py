"""The guard against losses, gradients and weights that are not finite: back to good weights, at a lower rate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparring.config import GuardSettings
from sparring.errors import NonFinite, RollBack
from sparring.trainer.learner import Learner


class NonFiniteGuard:
    """Allows `guard.max_rollbacks` rollbacks, counts them, and lowers the learner's rate with each.

    Neither count nor rate goes back with the weights: what is undone has happened all the same.
    """

    def __init__(self, settings: GuardSettings, learner: Learner) -> None:
        self.settings, self.learner = settings, learner
        self.rollbacks = 0

    def require_allowed(self, error: RollBack, checkpoints: Path) -> None:
        """Refuse a rollback that the settings forbid.

        Raises:
            NonFinite: with the reason, and where the last checkpoint is.
        """
        if self.settings.non_finite == "rollback" and self.rollbacks < self.settings.max_rollbacks:
            return
        how_often = f" There were {self.rollbacks} rollbacks (guard.max_rollbacks)." if self.rollbacks else ""
        raise NonFinite(f"{error}{how_often} The last checkpoint is in {checkpoints}.") from error

    def rolled_back(self) -> None:
        """The learner holds good weights again."""
        self.rollbacks += 1
        self.learner.rate_scale *= self.settings.rate_factor

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"rollbacks": self.rollbacks, "rate_scale": self.learner.rate_scale}

    def restore(self, state: dict[str, Any] | None) -> None:
        """Continue from `state()`, or from what has happened since it was kept."""
        if state is not None:
            self.rollbacks = max(self.rollbacks, state["rollbacks"])
            self.learner.rate_scale = min(self.learner.rate_scale, state["rate_scale"])
