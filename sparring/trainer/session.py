"""A training session: what every engine does around its steps (records, held-out accuracy, checkpoints, stopping)."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from sparring.allocators import augmix_speedup, theoretical_speedup
from sparring.attacks import Attack, WarmStart
from sparring.config import bound
from sparring.errors import NonFinite, Overfitted, RollBack
from sparring.evaluation import evaluate, evaluate_by, evaluate_views
from sparring.models import build
from sparring.objectives import Batch
from sparring.observe.state import RunState
from sparring.observe.trackers import Tracking
from sparring.queue.messages import Key, Shard
from sparring.runs import Run
from sparring.trainer import checkpoints
from sparring.trainer.checkpoints import Checkpoint
from sparring.trainer.experiment import Experiment
from sparring.trainer.guards.overfitting import OverfittingGuard
from sparring.trainer.guards.staleness import Gap, StalenessGuard, age_weights, ladder, measure
from sparring.trainer.learner import Learner, StepResult
from sparring.trainer.pruning import Decision, Pruner
from sparring.trainer.starts import starts_of

log = logging.getLogger(__name__)
STATE_EVERY_S = 0.5
REPORTED = ("clean_accuracy", "robust_accuracy", "clean_interval", "robust_interval")


class Session:
    """Learner and records of one run.

    `report` is called with the state at most twice a second; `ledger_state` tells what a checkpoint must keep of
    the open epochs.
    """

    def __init__(
        self,
        experiment: Experiment,
        run: Run,
        device: torch.device,
        report: Callable[[RunState], None] = lambda state: None,
    ) -> None:
        self.experiment = experiment
        self.config, self.run, self.plan, self.report = experiment.config, run, experiment.plan, report
        self.heldout = experiment.heldout
        self._load_initial(experiment.model)
        self.learner = Learner(experiment, device)
        self.starts = starts_of(experiment.config, experiment.plan, len(experiment.training), experiment.training.shape)
        self.pruner = Pruner(self.learner, run)
        self.overfitting = OverfittingGuard(experiment.config, self.learner)
        self.staleness = StalenessGuard(ladder(experiment.config), experiment.config.guard)
        self.state = self._fresh_state()
        self.stop_reason: str | None = None
        self.extra: Callable[[], Any] = lambda: None  # what the engine keeps in a checkpoint beside the rest
        self._began = time.monotonic()
        self._reported = 0.0
        self._best = -1.0
        self._recent: list[StepResult] = []
        self._batch: Shard | None = None
        self._tracking = Tracking(experiment.config, run)
        self._history = run.history.open("a", buffering=1)

    def _load_initial(self, model: nn.Module) -> nn.Module:
        """What the run started from, where that was not the fresh weights."""
        if self.run.initial.is_dir():
            checkpoints.load_weights(self.run.initial, model)
        return model

    def _initial_model(self) -> nn.Module:
        dataset = self.learner.dataset
        config, (shape, classes) = self.config, (dataset.shape, dataset.classes)
        model = build(config.model, shape, classes, config.train.seed, normalize=config.data.normalize)
        return self._load_initial(model)

    def _fresh_state(self) -> RunState:
        return RunState(
            engine=self.config.engine,
            dataset=self.config.data.name,
            total_steps=self.last_step,
            epochs=self.plan.epochs,
            max_staleness=bound(self.config),
        )

    @property
    def last_step(self) -> int:
        """Steps that this run makes."""
        return min(self.plan.total_steps, self.config.train.max_steps or self.plan.total_steps)

    def restore(self) -> Checkpoint | None:
        """Continue from the newest checkpoint of the run's folder, if there is one."""
        path = checkpoints.latest(self.run.checkpoints)
        if path is None:
            self.pruner.recall(0)
            return None
        checkpoint = checkpoints.load_state(path)
        checkpoints.load_weights(path, self.learner.model)
        if self.learner.average is not None:
            checkpoints.load_weights(path, self.learner.average, checkpoints.AVERAGE)
        self._continue_from(checkpoint)
        if self.overfitting.on:
            self.overfitting.take(checkpoint)
        self.state.checkpointed = path.stat().st_mtime
        self._began = time.monotonic() - self.state.seconds
        log.info("continued from %s", path.name)
        return checkpoint

    def _continue_from(self, checkpoint: Checkpoint) -> None:
        """Everything but the weights and their average, which are there already."""
        robust_share = float(checkpoint.counters.get("robust_share", 0.0))
        self.learner.restore(checkpoint.step, checkpoint.optimizer, robust_share, checkpoint.scaler)
        self.learner.rate_scale = float(checkpoint.counters.get("rate_scale", 1.0))
        if self.starts is not None:
            self.starts.restore(checkpoint.starts)
        total = self.state.total_steps
        self.state = RunState.from_dict(checkpoint.counters)
        self.state.total_steps, self.state.engine = total, self.config.engine
        self.state.max_staleness = bound(self.config)
        self.learner.pgd_until, self.staleness.level = self.state.pgd_until, self.state.staleness_level
        self._recall_pruning()
        self._best = float(checkpoint.counters.get("best_robust_accuracy", -1.0))

    def roll_back(self, error: RollBack) -> Checkpoint | None:
        """Go back to good weights, or to the beginning, and act by what has gone wrong; counted.

        What the attacks have cost stays counted, also where its outcome is undone.

        Raises:
            RollBack: `guard` forbids it, or it has happened too often.
        """
        self._require_allowed(error)
        log.warning("%s Rolled back.", error)
        before, scale = self.state, self.learner.rate_scale
        checkpoint = self._to_good_weights()
        state, guard = self.state, self.config.guard
        self._recent, self._batch = [], None
        state.rollbacks, state.overfittings, state.gradients = before.rollbacks, before.overfittings, before.gradients
        if isinstance(error, Overfitted):
            state.overfittings += 1
            state.gradients += error.gradients
            self.overfitting.falls += 1
            state.pgd_until = self.learner.step + guard.overfitting_for * 2 ** (state.overfittings - 1)
        else:
            state.rollbacks += 1
            scale *= guard.rate_factor
        self.learner.rate_scale, self.learner.pgd_until = scale, state.pgd_until
        state.phase, state.message = "training", f"rolled back: {error}"
        if checkpoint is not None:
            checkpoints.forget_newer(self.run.checkpoints, checkpoint.step)  # they belong to what has been undone
            self._write(replace(checkpoint, counters=self._counters()))
        return checkpoint

    def _require_allowed(self, error: RollBack) -> None:
        guard, rollbacks = self.config.guard, self.state.rollbacks
        if isinstance(error, Overfitted):
            return
        if guard.non_finite == "stop" or rollbacks >= guard.max_rollbacks:
            how_often = f" after {rollbacks} rollbacks (guard.max_rollbacks)" if rollbacks else ""
            raise NonFinite(f"{error}{how_often} The last checkpoint is in {self.run.checkpoints}.") from error

    def _to_good_weights(self) -> Checkpoint | None:
        """Those that passed the overfitting guard last; without one the newest checkpoint, or the initial ones."""
        kept = self.overfitting.go_back()
        if kept is not None:
            self._continue_from(kept)
            return kept
        found = self.restore()
        if found is None:
            self.learner.restart(self._initial_model())
            if self.starts is not None:
                self.starts.restore(None)
            self.state = self._fresh_state()
        return found

    def start_clock(self, already: float = 0.0) -> None:
        """Training began `already` seconds ago; what came before is preparation."""
        self._began = time.monotonic() - self.state.seconds - already
        self.state.phase = "training"

    def start_of(self, key: Key, radius: float) -> WarmStart | None:
        """Where the attack on ticket `key` begins in a ball of `radius`; None: as the attack does."""
        return None if self.starts is None else self.starts.given(key, self.plan.indices(key.epoch, key.number), radius)

    def learn(self, shards: Sequence[Shard], batch: Batch | None = None) -> StepResult:
        """One step, counted; see `Learner.learn`. `batch`: the shards put together, where the engine has them so."""
        state, before = self.state, self.learner.step
        began = time.monotonic()
        epsilon = self.learner.epsilon()
        epoch = shards[0].key.epoch
        ages, sizes = [before - shard.version for shard in shards], [len(shard.labels) for shard in shards]
        weights = age_weights(ages, sizes, self.staleness.remedies.half_life)
        result = self.learner.learn(self.learner.batch(shards, weights) if batch is None else batch, epoch)
        state.step_seconds += time.monotonic() - began
        state.step, state.epoch = self.learner.step, shards[-1].key.epoch
        state.examples += result.examples
        state.gradients += sum(shard.gradients for shard in shards)
        self._batch = shards[0]
        state.skipped_steps += result.skipped
        state.learning_rate, state.epsilon = result.learning_rate, epsilon
        self._recent = [*self._recent[-49:], result]
        seen = sum(step.examples for step in self._recent)
        state.loss = sum(step.loss * step.examples for step in self._recent) / seen
        state.train_robust_accuracy = sum(step.correct for step in self._recent) / seen
        state.robust_share = self.learner.robust_share
        known = [shard for shard in shards if shard.full_seconds > 0]
        state.attack_seconds += sum(shard.cost_seconds for shard in known)
        state.full_attack_seconds += sum(shard.full_seconds for shard in known)
        for shard in shards:
            state.allocated.update({name: count for name, count in shard.classes.items() if count})
            state.drift_sum += self.learner.drift(min(shard.version, before))
            if self.starts is not None:
                self.starts.remember(shard, self.plan.indices(shard.key.epoch, shard.key.number))
        if state.allocated:
            state.theoretical_speedup = self._theoretical_speedup()
        self._write_history(shards)
        return result

    def _theoretical_speedup(self) -> float | None:
        """Equation 7 of Hua et al., of all that has been allocated in the run; of AugMix in passes instead of steps."""
        allocator, attack = self.experiment.allocator, self.experiment.attack
        if allocator is None:
            return None
        if isinstance(attack, Attack):
            return theoretical_speedup(self.state.allocated, allocator, attack)
        return augmix_speedup(self.state.allocated, allocator, attack)

    def _write_history(self, shards: Sequence[Shard]) -> None:
        """What the step trained on. After a resume a step number stands here again: its last line is what survives."""
        line = {
            "step": self.learner.step,
            "fence": shards[0].fence,
            "epoch": shards[0].key.epoch,
            "tickets": [shard.key.number for shard in shards],
            "versions": [shard.version for shard in shards],
            "workers": [shard.worker for shard in shards],
        }
        self._history.write(json.dumps(line) + "\n")

    def after_step(self, ledger_state: dict[str, Any], *, last_of_epoch: bool) -> None:
        """Everything that is due after a step: held-out accuracy, record, checkpoint, report."""
        state, every = self.state, self.config.train.evaluate_every_epochs
        state.seconds = time.monotonic() - self._began
        state.examples_per_second = state.examples / max(state.seconds, 1e-9)
        improved = False
        if every and len(self.heldout) and _crossed(self.plan.epochs_at, state.step, every):
            improved = self.measure_heldout()
        saving = state.step % self.config.checkpoint.every_steps == 0 or improved
        if saving or state.step % self.config.guard.overfitting_every == 0:
            self.guard_against_overfitting(ledger_state)
        if state.step % self.config.metrics.every_steps == 0 or last_of_epoch:
            self.record()
        if saving:
            self.save(ledger_state, best=improved)
        self.report_soon()

    def guard_against_overfitting(self, ledger_state: dict[str, Any]) -> None:
        """See `OverfittingGuard.check`; its gradients are counted.

        Raises:
            Overfitted: robust accuracy has fallen further than allowed.
        """
        checked = self.overfitting.check(self._batch, lambda: self._checkpoint(ledger_state))
        if checked is not None:
            self.state.guard_accuracy = checked.accuracy
            self.state.gradients += checked.gradients

    def ready_for(self, epoch: int, ledger_state: dict[str, Any], meanwhile: Callable[[], None] = lambda: None) -> bool:
        """Prune, where `epoch` is the first on what is kept; False: stopped before that was decided.

        `meanwhile` is called now and then. With the overfitting guard the weights that decide must pass it, and are
        good from then on: a fall goes back no further.
        """
        first = self.pruner.undecided
        if first is None or epoch < first:
            return True
        self.guard_against_overfitting(ledger_state)
        state, message = self.state, self.state.message

        def look_up(done: int) -> bool:
            state.message = f"pruning: {done} of {self.plan.size} training examples attacked"
            meanwhile()
            self.report_soon()
            return not self.should_stop()

        decision = self.pruner.decide(look_up)
        state.message = message
        if decision is not None:
            self.save(ledger_state)  # or a crash soon after would lose the weights that decided
            self.pruner.keep(decision)
            self._count_pruning(decision)
            if self.overfitting.on:
                self.overfitting.take(self._checkpoint(ledger_state))
            self.report_soon(force=True)
        return decision is not None

    def _recall_pruning(self) -> None:
        self.pruner.restore({"kept": self.state.kept})
        decision = self.pruner.decision
        if decision is not None and self.state.kept is None:
            self._count_pruning(decision)

    def _count_pruning(self, decision: Decision) -> None:
        state = self.state
        state.kept = len(decision.indices)
        state.gradients += decision.gradients
        state.pruning_seconds += decision.seconds
        state.seconds += decision.seconds

    def measure_heldout(self) -> bool:
        """Clean and PGD-10 accuracy on held-out examples; True where the robust one is the best so far.

        Of the weights' average where there is one: then the best checkpoint is that with the best average. Of AugMix
        the robust one is the share of examples of which both views are classified right.
        """
        attack, train, learner = self.experiment.attack, self.config.train, self.learner
        model, samples = learner.model if learner.average is None else learner.average, train.evaluate_samples
        if isinstance(attack, Attack):
            found = evaluate(model, self.heldout, attack.evaluator(10), samples=samples, seed=train.seed)
        else:
            found = evaluate_views(model, self.heldout, attack.augmix, samples=samples, seed=train.seed)
        state = self.state
        state.clean_accuracy, state.robust_accuracy = found.clean_accuracy, found.robust_accuracy
        state.heldout_samples, state.heldout_attack = found.samples, found.attack
        state.heldout_interval = found.robust_interval
        better = found.robust_accuracy > self._best
        self._best = max(self._best, found.robust_accuracy)
        return better

    def evaluate(self, progress: Callable[[str], None]) -> dict[str, Any]:
        """The weights' figures on the test set, and apart those of their average where there is one (`ema_…`)."""
        config, test = self.config, self.experiment.test()

        def figures(model: torch.nn.Module) -> dict[str, Any]:
            return evaluate_by(
                model, test, self.experiment.threat, config.evaluation, config.train.seed, progress
            ).as_dict()

        found = figures(self.learner.model)
        if self.learner.average is not None:
            apart = figures(self.learner.average)
            found |= {f"ema_{name}": apart[name] for name in REPORTED}
        return found

    def watch_staleness(self, shards: Sequence[Shard]) -> None:
        """Now and then compare what is about to be trained on with a fresh attack; act on it where the guard is on.

        The oldest shard is measured; its gap counts by its weight among the shards of the step.
        """
        settings, guard, step = self.config.staleness, self.config.guard, self.learner.step
        acts = guard.staleness and step % guard.staleness_every == 0
        if not acts and not (settings.gap_every and step % settings.gap_every == 0):
            return
        oldest = min(range(len(shards)), key=lambda number: shards[number].version)
        gap = measure(self.learner, shards[oldest], self._start_again(shards[oldest]))
        if gap is None:
            return
        self.state.fresh_minus_stale, self.state.fresh_minus_stale_loss = gap.accuracy, gap.loss
        if acts:
            self.state.gradients += gap.gradients
            self._act_on(gap, self._age_weight(shards, oldest))

    def _start_again(self, shard: Shard) -> WarmStart | None:
        """Where the attack on a shard began that has not been trained on yet."""
        return self.start_of(shard.key, shard.radius)

    def _age_weight(self, shards: Sequence[Shard], number: int) -> float:
        ages = [self.learner.step - shard.version for shard in shards]
        weights = age_weights(ages, [1] * len(ages), self.staleness.remedies.half_life)
        return 1.0 if weights is None else float(weights[number])

    def _act_on(self, gap: Gap, weight: float) -> None:
        guard, state = self.staleness, self.state
        decision = guard.decide(-gap.accuracy * weight)
        if decision is None:
            return
        state.staleness_level = guard.level
        state.staleness_decisions[decision] += 1
        log.warning(
            "staleness guard %s at step %d: fresh minus stale accuracy %+.3f, loss %+.3f; now %s",
            decision,
            self.learner.step,
            gap.accuracy,
            gap.loss,
            guard.remedies,
        )

    def record(self) -> None:
        """One line of metrics.jsonl, and the same to the trackers."""
        with self.run.metrics.open("a") as file:
            file.write(json.dumps({"time": time.time(), **self.state.as_dict()}) + "\n")
        self._tracking(self.state)

    def report_soon(self, force: bool = False) -> None:
        """Tell the state to whoever watches, at most twice a second."""
        now = time.monotonic()
        if force or now - self._reported >= STATE_EVERY_S:
            self._reported = now
            self.state.updated = time.time()
            self.report(self.state)

    def save(self, ledger_state: dict[str, Any], best: bool = False) -> None:
        """Write a checkpoint of this step."""
        self._write(self._checkpoint(ledger_state), best)

    def _write(self, checkpoint: Checkpoint, best: bool = False) -> None:
        """With the present weights."""
        model, average, keep = self.learner.model, self.learner.average, self.config.checkpoint.keep
        checkpoints.save(self.run.checkpoints, model, checkpoint, keep, best, average)
        self.state.checkpointed = time.time()

    def _counters(self) -> dict[str, Any]:
        own = {"best_robust_accuracy": self._best, "rate_scale": self.learner.rate_scale}
        return {**self.state.as_dict(), **own}

    def _checkpoint(self, ledger_state: dict[str, Any]) -> Checkpoint:
        starts = None if self.starts is None else self.starts.state()
        learner = self.learner
        optimizer, scaler = learner.optimizer.state_dict(), learner.scaler.state_dict()
        return Checkpoint(learner.step, optimizer, ledger_state, self._counters(), self.extra(), starts, scaler)

    def should_stop(self) -> bool:
        """The run has made its last step, or somebody asked it to stop."""
        if self.stop_reason is None and self.run.stop_requested():
            self.stop_reason = "stopped"
        return self.stop_reason is not None or self.overfitting.enough or self.learner.step >= self.last_step

    def ask_to_stop(self, reason: str) -> None:
        """Stop after the present step: `stopped` by a command or `interrupted` by a signal."""
        self.stop_reason = self.stop_reason or reason

    def finish(self, ledger_state: dict[str, Any]) -> str:
        """Last record and checkpoint; returns how it ended: finished, stopped or interrupted.

        A run that made all its steps is in phase `evaluating`: it has finished once it has been evaluated.
        """
        self.guard_against_overfitting(ledger_state)
        self.state.phase = self.stop_reason or "evaluating"
        self.record()
        self._tracking.close()
        self.save(ledger_state)
        self.report_soon(force=True)
        return self.stop_reason or "finished"


def _crossed(epochs_at: Callable[[int], float], step: int, every: float) -> bool:
    """A multiple of `every` epochs lies within the last of `step` steps; 1e-9 makes up for rounding."""
    return int(epochs_at(step) / every + 1e-9) > int(epochs_at(step - 1) / every + 1e-9)
