"""A training session: what every engine does around its steps (stopping, pruning, guards, checkpoints, records)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import inf

import torch

from sparring.attacks import WarmStart
from sparring.errors import Overfitted, RollBack
from sparring.evaluation.rolling import Questions, questions
from sparring.objectives import Batch
from sparring.observe.state import RunState
from sparring.queue.messages import Key, Shard
from sparring.runs import Run
from sparring.trainer.checkpoints import Checkpoint, Owner
from sparring.trainer.evaluating import HeldoutMonitor
from sparring.trainer.experiment import Experiment
from sparring.trainer.finish import Heads
from sparring.trainer.guards.gap import GapMonitor
from sparring.trainer.guards.non_finite import NonFiniteGuard
from sparring.trainer.guards.overfitting import OverfittingGuard
from sparring.trainer.guards.staleness import StalenessGuard, ladder
from sparring.trainer.learner import Learner, StepResult, Update
from sparring.trainer.pruning import Pruner
from sparring.trainer.recorder import Recorder
from sparring.trainer.rolling import RollingMonitor
from sparring.trainer.same_data import require_same_training_data
from sparring.trainer.starts import starts_of
from sparring.trainer.steps import Step, consumed_by
from sparring.trainer.training_state import TrainingState, keep_frozen, load_initial
from sparring.workers.task import Task

log = logging.getLogger(__name__)


class Session:
    """One run: its learner, its guards, its training state and its records."""

    def __init__(
        self,
        experiment: Experiment,
        run: Run,
        device: torch.device,
        report: Callable[[RunState], None] = lambda state: None,
    ) -> None:
        self.experiment, self.run = experiment, run
        self.config, self.plan = experiment.config, experiment.plan
        load_initial(run, experiment.model)
        keep_frozen(run, experiment.helper)
        self.learner = learner = Learner(experiment, device)
        self.starts = starts_of(
            self.config.attack.start,
            self.plan,
            len(experiment.training),
            experiment.training.shape,
            lead=self.config.staleness.lead if self.config.staleness.finish != "off" else 0,
        )
        self.heads = Heads(learner)
        self.pruner = Pruner(learner, run)
        self.overfitting = OverfittingGuard(self.config, learner)
        self.non_finite = NonFiniteGuard(self.config.guard, learner)
        self.staleness = StalenessGuard(ladder(self.config), self.config.guard)
        self.gap = GapMonitor(learner, self.staleness, self.start_of)
        self.heldout = HeldoutMonitor(learner, experiment.heldout)
        self.asked: Questions | None = None
        self.rolling: RollingMonitor | None = None
        if self.config.evaluation.rolling:
            self._judge_while_training()
        self.recorder = Recorder(learner, run, report)
        self.training = TrainingState(learner, run, self.recorder, self._owners())
        self.stop_reason: str | None = None

    def _judge_while_training(self) -> None:
        settings, experiment = self.config.evaluation, self.experiment
        self.asked = questions(settings, experiment.heldout, experiment.threat, self.config.train.seed)
        self.rolling = RollingMonitor(settings.rolling_patience, self.asked.identity)

    def _owners(self) -> dict[str, Owner]:
        owners: dict[str, Owner] = {
            "pruning": self.pruner,
            "overfitting": self.overfitting,
            "non_finite": self.non_finite,
            "staleness": self.staleness,
            "heldout": self.heldout,
        }
        if self.rolling is not None:
            owners["rolling"] = self.rolling
        if self.starts is not None:
            owners["starts"] = self.starts
        if self.heads.on:
            owners["heads"] = self.heads
        return owners

    @property
    def state(self) -> RunState:
        """What is known of the run now."""
        return self.recorder.state

    @property
    def last_step(self) -> float:
        """Steps after which this run stops; infinite where all its tickets decide."""
        limit = self.config.train.max_steps
        return inf if limit is None or limit >= self.plan.total_steps else limit

    def restore(self, *, again: bool = False) -> Checkpoint | None:
        """Continue from the newest checkpoint of the run's folder; None: there is none, the run begins.

        again: this session has trained already; where the run begins, its weights are the initial ones again.

        Raises:
            UsageError: the training data are not those that the run began with.
        """
        require_same_training_data(self.run, self.experiment)
        otherwise = self.training.restart if again else self.training.begin
        checkpoint = self._continued(self.training.load_newest(), otherwise)
        self.run.begin_phases_by(self.learner.step)
        self._observe()
        return checkpoint

    def _continued(self, loaded: Checkpoint | None, otherwise: Callable[[], None]) -> Checkpoint | None:
        if loaded is None:
            otherwise()
        else:
            self.overfitting.loaded(loaded)
        return loaded

    def _observe(self) -> None:
        """Copy what the owners of training state hold into the reported state."""
        state = self.state
        if self.pruner.decision is not None and state.kept is None:
            self.recorder.pruned(self.pruner.decision)  # it was made just before a crash, and no checkpoint counts it
        state.rollbacks, state.overfittings = self.non_finite.rollbacks, self.overfitting.overfittings
        state.staleness_level, state.pgd_until = self.staleness.level, self.learner.pgd_until
        state.robust_share = self.learner.robust_share

    def roll_back(self, error: RollBack) -> Checkpoint | None:
        """Return to good weights, or to the beginning, and let the guard that is concerned react.

        Gradient evaluations stay counted, also those whose outcome is undone.

        Raises:
            RollBack: the settings forbid it, or it has happened too often.
        """
        if not isinstance(error, Overfitted):
            self.non_finite.require_allowed(error, self.run.checkpoints)
        log.warning("%s Rolled back.", error)
        gradients = self.state.gradients
        checkpoint = self._to_good_weights()
        if isinstance(error, Overfitted):
            self.overfitting.rolled_back()
            gradients += error.gradients
        else:
            self.non_finite.rolled_back()
        self._observe()
        state = self.state
        state.gradients, state.phase, state.message = gradients, "training", f"rolled back: {error}"
        if checkpoint is not None:
            self.training.save_again(checkpoint)
        return checkpoint

    def _to_good_weights(self) -> Checkpoint | None:
        """Load the last weights that passed the overfitting guard, else the last planned checkpoint, or the initial
        ones: never those of a stop, which an undisturbed run has not."""
        kept = self.overfitting.go_back()
        if kept is not None:
            self.training.continue_from(kept)
            return kept
        return self._continued(self.training.load_planned(), self.training.restart)

    def start_clock(self, already: float = 0.0) -> None:
        """Training began `already` seconds ago; time before that does not count."""
        self.recorder.start_clock(already)

    def steps(self, resumed: Checkpoint | None) -> Iterator[Step]:
        """The remaining steps, for an engine of one process: the body of its loop makes each of them.

        Ends after the run's last step or when it is to stop. Prunes before the epoch that needs it. After the body, the
        step's tickets count as consumed, and guards, checkpoint and records follow. After an exception they do not.
        """
        consumed, plan = consumed_by(resumed, self.plan.shards_by_epoch), self.plan
        self.training.ledger = consumed.state
        for keys in plan.steps(consumed.epoch, consumed.done):
            for replay in range(consumed.replay, plan.replays):
                if self.should_stop() or not self.ready_for(keys[0].epoch):
                    return
                if self.heads.on:
                    self.heads.remember()
                step = Step(tuple(keys), replay)
                yield step
                consumed.add(step, plan.replays)
                ends = consumed.replay == 0 and keys[-1].number == plan.shards(step.epoch) - 1
                self.after_step(last_of_epoch=ends)

    def tasks(self, step: Step) -> list[Task]:
        """The attacks of a step, at the learner's present ε."""
        epsilon = self.learner.epsilon()
        return [
            Task(key, self.plan.indices(key.epoch, key.number), start=self.start_of(key, epsilon)) for key in step.keys
        ]

    def start_of(self, key: Key, radius: float) -> WarmStart | None:
        """The warm start of the attack on ticket `key` in a ball of `radius`; None: the attack has its own start."""
        return None if self.starts is None else self.starts.given(key, self.plan.indices(key.epoch, key.number), radius)

    @contextmanager
    def update(
        self, shards: Sequence[Shard], batch: Batch | None = None, arrivals: Sequence[int] = ()
    ) -> Iterator[Update]:
        """Everything around one optimizer step: makes a batch of the shards, weighted by age, and records the step.

        Args:
            batch: the examples of the shards, if the engine has them already.
            arrivals: at which step each shard arrived, if workers made them.
        """
        began, learner = time.monotonic(), self.learner
        if batch is None:
            ages, sizes = [learner.step - shard.version for shard in shards], [len(shard.labels) for shard in shards]
            batch = learner.batch(shards, self.staleness.weights(ages, sizes))
        with learner.update(batch, shards[0].key.epoch) as update:
            yield update
        self.record(shards, update.result, time.monotonic() - began, arrivals)

    def learn(self, shards: Sequence[Shard], batch: Batch | None = None, arrivals: Sequence[int] = ()) -> StepResult:
        """One optimizer step; see `update`.

        Raises:
            NonFinite: loss, gradient or the new weights are not finite.
        """
        with self.update(shards, batch, arrivals) as update:
            loss, correct = update.forward()
            update.backward(loss, correct)
            update.optimizer_step()
        return update.result

    def record(self, shards: Sequence[Shard], result: StepResult, seconds: float, arrivals: Sequence[int] = ()) -> None:
        """Record a step that the learner has just made; see `Recorder.step`."""
        self.overfitting.batch = shards[0].key
        self.recorder.step(shards, result, seconds, arrivals)
        self._observe()
        if self.starts is not None:
            for shard in shards:
                self.starts.remember(shard, self.plan.indices(shard.key.epoch, shard.key.number))

    def after_step(self, *, last_of_epoch: bool) -> None:
        """Everything that is due after a step: held-out accuracy, guard, metrics, checkpoint, report.

        Raises:
            Overfitted: robust accuracy has fallen further than allowed.
        """
        self.recorder.read_clock()
        step, improved = self.learner.step, self.heldout.due and self.measure_heldout()
        saving = step % self.config.checkpoint.every_steps == 0 or improved
        if saving or step % self.config.guard.overfitting_every == 0:
            self.guard_against_overfitting()
        if step % self.config.metrics.every_steps == 0 or last_of_epoch:
            self.recorder.write_metrics()
        if saving:
            self.save(best=improved)
        self.report_soon()

    def measure_heldout(self) -> bool:
        """Evaluate on held-out examples; True where robust accuracy is the best so far, and the best checkpoint is
        chosen by it."""
        found, improved = self.heldout.evaluate()
        self.recorder.heldout(found)
        return improved and self.rolling is None

    def guard_against_overfitting(self) -> None:
        """See `OverfittingGuard.check`; its gradients are counted.

        Raises:
            Overfitted: robust accuracy has fallen further than allowed.
        """
        checked = self.overfitting.check(self.training.checkpoint)
        if checked is not None:
            self.state.guard_accuracy = checked.accuracy
            self.state.gradients += checked.gradients

    def ready_for(self, epoch: int, meanwhile: Callable[[], None] = lambda: None) -> bool:
        """Prune if `epoch` is the first on the examples that are kept; False: stopped before that was decided.

        `meanwhile` is called before each attack step. The weights that decide must pass the overfitting guard. They are
        its good weights from then on, so that no rollback goes further back.
        """
        first = self.pruner.undecided
        if first is None or epoch < first:
            return True
        self.guard_against_overfitting()
        state, message = self.state, self.state.message

        def go_on(done: int) -> bool:
            state.message = f"pruning: {done} of {self.plan.size} training examples attacked"
            meanwhile()
            self.report_soon()
            return not self.should_stop()

        decision = self.pruner.decide(go_on)
        state.message = message
        if decision is None:
            return False
        self.save()  # a crash must not lose the weights that decided
        self.pruner.keep(decision)
        self.recorder.pruned(decision)
        if self.overfitting.on:
            self.overfitting.take(self.training.checkpoint())
        self.recorder.report_soon(force=True)
        return True

    def refreshed(self, shards: Sequence[Shard], steps: int) -> list[Shard]:
        """The shards with so many more attack steps under the present weights; they are counted."""
        self.state.refresh_steps += steps * len(shards)
        return [self.learner.refresh(shard, steps) for shard in shards]

    def watch_staleness(self, shards: Sequence[Shard]) -> None:
        """Compare shards, before they are trained on, with a fresh attack if that is due; see `GapMonitor`."""
        checked = self.gap.check(shards)
        if checked is not None:
            self.recorder.gap(checked)
            self._observe()

    def report_soon(self) -> None:
        """Report the state, at most twice a second."""
        self.recorder.report_soon()

    def save(self, best: bool = False, *, planned: bool = True) -> None:
        """Write a checkpoint of this step; planned: an undisturbed run does it too."""
        self.training.save(best, planned=planned)

    def should_stop(self) -> bool:
        """The run has made its last step, or is to stop."""
        if self.stop_reason is None and self.run.stop_requested():
            self.stop_reason = "stopped"
        return self.stop_reason is not None or self.enough or self.learner.step >= self.last_step

    @property
    def enough(self) -> bool:
        """Training is to end before its last step, with the best weights."""
        return self.overfitting.enough or (self.rolling is not None and self.rolling.enough)

    def ask_to_stop(self, reason: str) -> None:
        """Stop after the present step; `reason`: stopped (by a command) or interrupted (by a signal)."""
        self.stop_reason = self.stop_reason or reason

    def finish(self) -> str:
        """Last record and checkpoint; returns how it ended: finished, stopped or interrupted.

        A run that made all its steps is in phase `evaluating`: it has finished once it has been evaluated. One that is
        stopped decides nothing here: it is to go on as if it had not been.
        """
        if self.stop_reason is None:
            self.guard_against_overfitting()
        self.state.phase = self.stop_reason or "evaluating"
        self.recorder.write_metrics()
        self.recorder.close()
        self.save(planned=self.stop_reason is None)
        self.recorder.report_soon(force=True)
        return self.stop_reason or "finished"
