"""Evaluation of a run's weights: on held-out training examples during training, on the test set at its end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from torch import nn

from sparring.attacks import Attack
from sparring.data import Dataset
from sparring.evaluation import Evaluation, evaluate, evaluate_by, evaluate_views
from sparring.evaluation.findings import unreached
from sparring.observe.report import FIGURES
from sparring.runs import Run
from sparring.trainer.experiment import Experiment
from sparring.trainer.learner import Learner
from sparring.trainer.pruning import nearly_gone
from sparring.trainer.same_data import of_another_test_set
from sparring.trainer.schedules import warmed_up

log = logging.getLogger(__name__)
PGD_STEPS = 10


class HeldoutMonitor:
    """Evaluates on held-out examples every `train.evaluate_every_epochs`; the best checkpoint is chosen by it.

    `best`: the highest robust accuracy so far (-1: none yet).
    """

    def __init__(self, learner: Learner, dataset: Dataset) -> None:
        self.learner, self.dataset = learner, dataset
        self.best = -1.0

    @property
    def due(self) -> bool:
        """The last step has reached or passed a multiple of the interval."""
        every, step = self.learner.config.train.evaluate_every_epochs, self.learner.step
        if not every or not len(self.dataset):
            return False
        before, now = (self.learner.plan.epochs_at(at) / every for at in (step - 1, step))
        return int(now + 1e-9) > int(before + 1e-9)  # 1e-9 makes up for rounding

    def evaluate(self) -> tuple[Evaluation, bool]:
        """Clean and PGD-10 accuracy of the weights' average where there is one, else of the weights; whether the
        robust one is the best so far. With AugMix it is the share of examples with both views classified correctly."""
        learner, train, attack = self.learner, self.learner.config.train, self.learner.experiment.attack
        model = learner.model if learner.average is None else learner.average
        if isinstance(attack, Attack):
            pgd = attack.evaluator(PGD_STEPS)
            found = evaluate(model, self.dataset, pgd, samples=train.evaluate_samples, seed=train.seed)
        else:
            views = attack.augmix
            found = evaluate_views(model, self.dataset, views, samples=train.evaluate_samples, seed=train.seed)
        improved = found.robust_accuracy > self.best
        self.best = max(self.best, found.robust_accuracy)
        return found, improved

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"best": self.best}

    def restore(self, state: dict[str, Any] | None) -> None:
        """Continue from `state()`; without one, as if nothing had been measured."""
        self.best = -1.0 if state is None else state["best"]


def evaluate_on_test(learner: Learner, run: Run, progress: Callable[[str], None]) -> dict[str, Any]:
    """The weights' figures on the test set, and those of their average where there is one (`ema_…`).

    progress: called with a sentence that says how far it is; an exception from it ends the evaluation.
    """
    experiment, config = learner.experiment, learner.config
    test = experiment.test()

    def figures(model: nn.Module) -> dict[str, Any]:
        return evaluate_by(model, test, experiment.threat, config.evaluation, config.train.seed, progress).as_dict()

    found = figures(learner.model)
    pruning = learner.plan.pruning
    kept = None if pruning is None else pruning.kept
    of_pruning = [] if kept is None else nearly_gone(learner.dataset.labels, kept)
    doubts = [*warning_of_warmup(experiment, learner.step), *of_another_test_set(run, test), *of_pruning]
    for warning in doubts:
        log.warning("%s", warning)
    found["warnings"] = [*doubts, *found["warnings"]]
    if learner.average is not None:
        apart = figures(learner.average)
        found |= {f"ema_{name}": apart[name] for name in FIGURES}
        found["ema_warnings"] = [*doubts, *found["ema_warnings"]]
    return found


def warning_of_warmup(experiment: Experiment, steps: int) -> list[str]:
    """A warning if a run that ends after `steps` steps has not reached the ε that it is evaluated at."""
    attack = experiment.attack
    if not isinstance(attack, Attack):
        return []
    reached = warmed_up(attack.epsilon, steps - 1, experiment.plan.warmup_steps(experiment.config.attack))
    return unreached(reached, attack.epsilon)
