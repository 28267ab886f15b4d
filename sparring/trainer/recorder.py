"""The records of a run: its state, steps.jsonl, metrics.jsonl, trackers, and the report to the caller."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence

from sparring.allocators import augmix_speedup, theoretical_speedup
from sparring.attacks import Attack
from sparring.config import bound
from sparring.evaluation import Evaluation
from sparring.observe.state import SMOOTHED_STEPS, RunState
from sparring.observe.trackers import Tracking
from sparring.queue.messages import Shard
from sparring.runs import Run, append
from sparring.trainer.guards.gap import Checked
from sparring.trainer.learner import Learner, StepResult
from sparring.trainer.pruning import Decision
from sparring.trainer.rolling import RollingVerdict

log = logging.getLogger(__name__)
ZERO_GRADIENTS = (
    "step %d: the attack on %d of %d examples met a gradient of exactly zero, which did not move them. Look in the "
    "model for rounding or saturation (probabilities instead of logits?)."
)
NON_FINITE_GRADIENTS = (
    "step %d: the attack on %d of %d examples met gradients with entries that are not finite, which were taken as 0. "
    "Look in the model for a root, logarithm, norm or division whose slope at 0 is infinite."
)
UNMOVED = (
    "step %d: the attack took %d gradients and moved none of %d examples, so that training sees clean images. Look in "
    "the attack's step and projection."
)
NO_GRADIENT = (
    "step %d: the loss gave every weight a gradient of exactly zero, so that nothing was learned from its %d examples. "
    "Look in the objective for detach, rounding or argmax, and in the model for saturation."
)
WARNED_SHARE = 0.01  # of a step's examples without a usable gradient
REPORT_EVERY_S = 0.5


class Recorder:
    """Counts what a run does. It only observes: nothing here decides what is trained. `report` receives the state."""

    def __init__(self, learner: Learner, run: Run, report: Callable[[RunState], None]) -> None:
        self.learner, self.run, self.report = learner, run, report
        self.state = self._fresh_state()
        self._recent: list[StepResult] = []
        self._warned: set[str] = set()
        self.clock: Callable[[], float] = time.monotonic  # of the training's seconds
        self._began = self.clock()
        self._reported_at = 0.0
        self._tracking = Tracking(learner.config, run)

    def restart(self) -> None:
        """Count again from the beginning."""
        self.state, self._recent, self._began = self._fresh_state(), [], self.clock()

    def continue_from(self, state: RunState) -> None:
        """Continue counting from `state`; settings that a resume may have changed are taken from the configuration."""
        fresh = self._fresh_state()
        self.state, self._recent = state, []
        state.engine, state.total_steps, state.max_staleness = fresh.engine, fresh.total_steps, fresh.max_staleness
        self._began = self.clock() - state.seconds

    def start_clock(self, already: float) -> None:
        """Training began `already` seconds ago; time before that does not count."""
        self._began = self.clock() - self.state.seconds - already
        self.state.phase = "training"

    def read_clock(self) -> None:
        """Update the time that training has taken."""
        state = self.state
        state.seconds = self.clock() - self._began
        state.examples_per_second = state.examples / max(state.seconds, 1e-9)

    def step(self, shards: Sequence[Shard], result: StepResult, seconds: float, arrivals: Sequence[int]) -> None:
        """Count a step that the learner has just made.

        seconds: its duration without attacks; arrivals: at which step each shard arrived, for shards of workers.
        """
        state, learner = self.state, self.learner
        state.step, state.epoch = learner.step, shards[-1].key.epoch
        state.examples += result.examples
        state.step_seconds += seconds
        state.skipped_steps += result.skipped
        state.learning_rate, state.epsilon = result.learning_rate, learner.epsilon(learner.step - 1)
        self._smooth(result)
        if result.no_gradient:
            state.steps_without_gradient += 1
            self._warn_once(NO_GRADIENT, result.examples)
        self._count_staleness(shards, arrivals)
        self._count_attacks(shards)
        self._write_history(shards)

    def _smooth(self, result: StepResult) -> None:
        self._recent = [*self._recent[1 - SMOOTHED_STEPS :], result]
        seen = sum(step.examples for step in self._recent)
        self.state.loss = sum(step.loss * step.examples for step in self._recent) / seen
        self.state.train_robust_accuracy = sum(step.correct for step in self._recent) / seen

    def _count_staleness(self, shards: Sequence[Shard], arrivals: Sequence[int]) -> None:
        before = self.learner.step - 1
        for number, shard in enumerate(shards):
            arrived = arrivals[number] if arrivals else None
            in_flight, in_queue = (0, 0) if arrived is None else (arrived - shard.version, before - arrived)
            drift = self.learner.drift(min(shard.version, before), until=before)
            self.state.consumed(before - shard.version, in_flight, in_queue, drift)

    def _count_attacks(self, shards: Sequence[Shard]) -> None:
        state, timed = self.state, [shard for shard in shards if shard.full_seconds > 0]
        state.gradients += sum(shard.gradients for shard in shards)
        self._count_gradients(shards)
        state.attack_seconds += sum(shard.cost_seconds for shard in timed)
        state.full_attack_seconds += sum(shard.full_seconds for shard in timed)
        for shard in shards:
            state.allocated.update({name: count for name, count in shard.classes.items() if count})
        if state.allocated:
            state.theoretical_speedup = self._theoretical_speedup()

    def _count_gradients(self, shards: Sequence[Shard]) -> None:
        """Count the examples whose attack had no usable gradient; the log tells of the first step that has many."""
        state, examples = self.state, sum(len(shard.labels) for shard in shards)
        zero = sum(shard.zero_gradients for shard in shards)
        non_finite = sum(shard.non_finite_gradients for shard in shards)
        for text, count in ((ZERO_GRADIENTS, zero), (NON_FINITE_GRADIENTS, non_finite)):
            if count > WARNED_SHARE * examples:
                self._warn_once(text, count, examples)
        gradients = sum(shard.gradients for shard in shards)
        still = self._attacked(shards) and not any(shard.views is not None or shard.delta.any() for shard in shards)
        if still and not zero:
            state.unmoved_steps += 1
            self._warn_once(UNMOVED, gradients, examples)
        state.attack_zero_gradients += zero
        state.attack_non_finite_gradients += non_finite

    def _attacked(self, shards: Sequence[Shard]) -> bool:
        """Whether attack steps were made before this training step. Those that an allocator needs move nothing, and
        the first replay of a run begins without a perturbation."""
        experiment = self.learner.experiment
        if experiment.config.train.replays > 1 and self.state.step == 1:
            return False
        allocator = experiment.allocator
        classifying = [0 if allocator is None else allocator.gradients(len(shard.labels)) for shard in shards]
        return sum(shard.gradients for shard in shards) > sum(classifying)

    def _warn_once(self, text: str, *values: int) -> None:
        """Log a warning, with the step and the values, the first time."""
        if text not in self._warned:
            self._warned.add(text)
            log.warning(text, self.state.step, *values)

    def _theoretical_speedup(self) -> float | None:
        """Equation 7 of Hua et al. for all examples of the run; for AugMix in forward passes instead of steps."""
        experiment, allocated = self.learner.experiment, self.state.allocated
        allocator, attack = experiment.allocator, experiment.attack
        if allocator is None:
            return None
        if isinstance(attack, Attack):
            return theoretical_speedup(allocated, allocator, attack)
        return augmix_speedup(allocated, allocator, attack)

    def _write_history(self, shards: Sequence[Shard]) -> None:
        """What the step trained on. A step that is repeated after a resume has another line: the last one counts."""
        line = {
            "step": self.learner.step,
            "fence": shards[0].fence,
            "epoch": shards[0].key.epoch,
            "tickets": [shard.key.number for shard in shards],
            "versions": [shard.version for shard in shards],
            "workers": [shard.worker for shard in shards],
            "made_by": [[shard.start_version, *shard.attacked_by] for shard in shards],
        }
        append(self.run.history, json.dumps(line))

    def pruned(self, decision: Decision) -> None:
        """Count the cost of deciding which examples are kept."""
        state = self.state
        state.kept = len(decision.indices)
        state.gradients += decision.gradients
        state.pruning_seconds += decision.seconds
        state.seconds += decision.seconds

    def gap(self, checked: Checked) -> None:
        """Note how much weaker stale shards are, and the guard's decision."""
        state, gap = self.state, checked.gap
        state.fresh_minus_stale, state.fresh_minus_stale_loss = gap.accuracy, gap.loss
        if checked.acts:
            state.gradients += gap.gradients
        if checked.decision is not None:
            state.staleness_decisions[checked.decision] += 1

    def heldout(self, found: Evaluation) -> None:
        """Note the accuracies on held-out examples."""
        state = self.state
        state.clean_accuracy, state.robust_accuracy = found.clean_accuracy, found.robust_accuracy
        state.heldout_samples, state.heldout_attack = found.samples, found.attack
        state.heldout_interval = found.robust_interval

    def rolling(self, judgement: RollingVerdict, attack: str, weights: str, best: bool) -> None:
        """Note the figures of a judged version. The state has those of complete judgements alone."""
        found, state = judgement.figures(), self.state
        line = {
            "time": time.time(),
            "version": judgement.version,
            "fence": judgement.fence,
            "step": state.step,
            "weights": weights,
            **found,
            "attack": attack,
            "best": best,
        }
        append(self.run.rolling, json.dumps(line))
        if not judgement.complete:
            return
        state.rolling_version, state.rolling_samples, state.rolling_attack = judgement.version, found["samples"], attack
        state.rolling_clean_accuracy, state.rolling_accuracy = found["clean_accuracy"], found["robust_accuracy"]
        state.rolling_interval = found["robust_interval"]

    def write_metrics(self) -> None:
        """One line of metrics.jsonl, and the same to the trackers."""
        append(self.run.metrics, json.dumps({"time": time.time(), **self.state.as_dict()}))
        self._tracking(self.state)

    def report_soon(self, force: bool = False) -> None:
        """Report the state, at most every REPORT_EVERY_S."""
        now = time.monotonic()
        if force or now - self._reported_at >= REPORT_EVERY_S:
            self._reported_at = now
            self.state.updated = time.time()
            self.report(self.state)

    def close(self) -> None:
        """Let the trackers write what is left."""
        self._tracking.close()

    def _fresh_state(self) -> RunState:
        config, plan = self.learner.config, self.learner.plan
        return RunState(
            engine=config.engine,
            dataset=config.data.name,
            method=self.learner.experiment.method,
            total_steps=min(plan.total_steps, config.train.max_steps or plan.total_steps),
            epochs=plan.epochs,
            max_staleness=bound(config),
        )
