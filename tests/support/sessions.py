"""Sessions on the digits, for the tests of the trainer's parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sparring.config import new_run
from sparring.runs import Run
from sparring.trainer.experiment import build_experiment
from sparring.trainer.session import Session
from tests.support.runs import small


def session_in(root: Path, run: Run | None = None, /, **groups: Any) -> Session:
    """A session of the synchronous engine, in a new run folder or in that of `run`; `groups` change settings."""
    config = small(root, **{"engine": "sync", **groups})
    return Session(build_experiment(config), run or new_run(config), torch.device("cpu"))


def weights_of(session: Session) -> torch.Tensor:
    """All weights of the learner's model, in one row."""
    return torch.nn.utils.parameters_to_vector(session.learner.model.parameters()).detach().clone()
