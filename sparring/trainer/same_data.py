"""A run goes on with the data that it began with, whoever goes on: a resume, or a trainer that was started again."""

from __future__ import annotations

from sparring.data import Dataset
from sparring.errors import UsageError
from sparring.runs import Run
from sparring.trainer.experiment import Experiment


def require_same_training_data(run: Run, experiment: Experiment) -> None:
    """The examples of the open epoch are numbered: of other data some would be trained on twice and others never.

    Raises:
        UsageError: they are not those that the run began with.
    """
    began, now = run.read_json(run.data.name), experiment.training
    if began is None or (began["fingerprint"], began["examples"]) == (now.fingerprint, len(now)):
        return
    config = experiment.config.data
    extra = "" if config.extra is None else f", data.extra = {config.extra!r}"
    raise UsageError(
        f"data.name = {config.name!r}{extra}: {run.path} began with {began['examples']} training examples (fingerprint "
        f"{began['fingerprint']}), now there are {len(now)} ({now.fingerprint}). Images, labels or their order have "
        f"changed. Put the data back, or start a new run."
    )


def of_another_test_set(run: Run, test: Dataset) -> list[str]:
    """A warning if the test set is not the one that the run began with, else []."""
    noted = run.read_object(run.data.name).get("test_fingerprint")
    if noted in (None, test.fingerprint):
        return []
    return ["The test set is not the one that the run began with: its figures cannot be compared with the run's own."]
