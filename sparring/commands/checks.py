"""Everything that can be refused is refused here, before a folder is made or a server started."""

from __future__ import annotations

import logging

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from sparring.attacks.augmix import AugMix
from sparring.commands.combinations import check_combinations
from sparring.commands.live import PREFIX, require_passed, require_sendable
from sparring.commands.sources import require_same_sources
from sparring.commands.trials import try_methods
from sparring.commands.without_effect import after_the_end, without_effect
from sparring.config import AttackSettings, Config, RunSettings, check_staleness, differences, trainer_attacks
from sparring.errors import UsageError
from sparring.evaluation.autoattack import attacks_for, require_attackable, require_autoattack
from sparring.evaluation.findings import out_of_reach, too_small
from sparring.evaluation.robustness import targets_of
from sparring.evaluation.rolling import attacks_of
from sparring.machine.devices import device_for
from sparring.models.first_layer import first_layer
from sparring.models.forward import require_compiler
from sparring.models.starting import not_fresh, start_from
from sparring.observe.discovery import require_folder
from sparring.observe.trackers import require_trackers
from sparring.runs import Run, require_new
from sparring.trainer import checkpoints
from sparring.trainer.experiment import NOTHING_PASSED, Experiment, Live, build_experiment
from sparring.trainer.same_data import of_another_test_set, require_same_training_data

log = logging.getLogger(__name__)

# Settings that do not alter the trained function and may change on resume.
RESUMABLE = (
    "workers.",
    "ddp.",
    "trainer.",
    "queue.",
    "ray.",
    "metrics.",
    "checkpoint.",
    "evaluation.",
    "corruptions.",
    "data.root",
)
FIXED = ("queue.wire", "trainer.batch_norm")
LENGTH = ("train.epochs", "train.max_steps")  # may grow on resume, also of a run that has finished


def check(config: Config, live: Live = NOTHING_PASSED, *, starts: bool, log_warnings: bool = True) -> Experiment:
    """Refuse what cannot work: combinations of settings, devices, packages, data (the test set too), model, evaluation,
    staleness, workers, the queue's server.

    If the run `starts`, the returned model has its initial weights; on a resume they are not needed. log_warnings: log
    what is odd, but no reason to refuse.

    Raises:
        SparringError: the first thing that is wrong.
    """
    require_passed(config, live)
    require_sendable(config, live)
    check_combinations(config)
    require_folder(config.metrics.file_sd)
    require_trackers(config.metrics.trackers)
    if config.engine == "ray":
        check_resources(config)
    if config.engine in ("ray", "virtual"):
        _check_workers(config)
        check_staleness(config.staleness)
    _check_device(config)
    if config.model.compile:
        require_compiler()
    experiment = build_experiment(config, live)
    summary = experiment.data_summary  # refuses unfit data by name, before a method fails on them
    try_methods(experiment)
    _check_batches(experiment)
    if config.yopo.passes:
        first_layer(experiment.model, config.yopo.first_layer, experiment.training.shape)
    for doubt in (*summary.warnings, *unused(experiment), *weaknesses(experiment)) if log_warnings else ():
        log.warning(doubt)
    _check_evaluation(experiment)
    if config.engine == "ray":
        _check_cluster(experiment)
    training = experiment.training
    if starts and live.model is None:
        start_from(config.model, experiment.model, training.shape, training.classes, config.train.seed)
    return experiment


def unused(experiment: Experiment) -> list[str]:
    """What is set and has no effect, in sentences."""
    found, settings = without_effect(experiment.config), experiment.config.attack
    found += after_the_end(experiment.config, experiment.plan)
    makes = getattr(experiment.attack, "steps", settings.steps)
    if settings.steps not in (makes, AttackSettings.model_fields["steps"].default):
        found.append(f"attack.steps = {settings.steps} has no effect: attack.name = {settings.name!r} makes {makes}.")
    return found


def weaknesses(experiment: Experiment) -> list[str]:
    """Why the network may not become robust, in sentences."""
    allocator, attack = experiment.allocator, experiment.attack
    if isinstance(attack, AugMix):
        return []
    found = [*out_of_reach(attack, "the network trains on a smaller one"), *too_small(attack.epsilon)]
    if allocator is None or any(budget.steps and budget.step_size for budget in allocator.budgets(attack)):
        return found
    return [
        *found,
        f"allocator.name = {experiment.config.allocator.name!r} gives every class of examples a budget of 0 steps, or "
        f"of steps of length 0: no example is attacked, and the network will not be robust.",
    ]


def require_new_folder(run: RunSettings) -> None:
    """Refuse a run folder that exists or cannot be made.

    Raises:
        SparringError: with the folder and the remedy.
    """
    require_new(run.root, run.name)


def require_resumable(run: Run, before: Config, config: Config) -> None:
    """Refuse a run that cannot be continued with `config`; `before`: its present configuration.

    Raises:
        UsageError: it has finished and is not made longer, is still running, a file of methods has changed, or a change
            would alter the trained function.
    """
    changed = differences(before, config)
    for name, (old, new) in changed.items():
        if name in LENGTH:
            if new is not None and (old is None or new < old):
                raise UsageError(f"{name} = {new} on resume: it can only grow from {old}.")
        elif not name.startswith(RESUMABLE) or name in FIXED:
            raise UsageError(
                f"{name} cannot change on resume: it alters the trained function. Start a new run, or leave it at "
                f"{old!r}."
            )
    if run.read_object("state.json").get("phase") == "finished" and not set(LENGTH) & changed.keys():
        epochs, steps = before.train.epochs, before.train.max_steps
        before_that = "" if steps is None else f", and --train.max_steps more than {steps}"
        raise UsageError(
            f"{run.path} has finished already; there is nothing to resume. To train longer, give --train.epochs more "
            f"than {epochs}{before_that}."
        )
    if run.is_alive():
        raise UsageError(f"{run.path} is still running; `sparring stop {run.path}` first.")
    require_same_sources(run)


def has_begun(run: Run, config: Config) -> bool:
    """Whether a resume has what it needs: a checkpoint, or the initial weights and the description of the data.

    A run may fail before it has written them, as on a full disk. Then a resume starts it.
    """
    if checkpoints.latest(run.checkpoints) is not None:
        return True
    given = not_fresh(config.model) or config.model.name.startswith(PREFIX)
    return run.data.is_file() and (not given or (run.initial / checkpoints.MODEL).is_file())


def require_loadable(run: Run, config: Config, live: Live) -> None:
    """Refuse other training data and damaged weights, of the start or a checkpoint, before the run is changed."""
    experiment, path = build_experiment(config, live), checkpoints.latest(run.checkpoints)
    _require_same_data(run, experiment)
    checkpoints.require_initial(run.initial)
    if path is not None:
        checkpoints.load_state(path)
        checkpoints.load_weights(path, experiment.model)


def _require_same_data(run: Run, experiment: Experiment) -> None:
    require_same_training_data(run, experiment)
    if of_another_test_set(run, experiment.test()):
        raise UsageError(
            f"data.name = {experiment.config.data.name!r}: the test set is not the one that {run.path} began with, so "
            f"its figures would not belong together. Put it back; `sparring evaluate {run.path}` takes another one and "
            f"says so."
        )


def _check_workers(config: Config) -> None:
    """Refuse a run in which nobody attacks."""
    if config.workers.count == 0 and not trainer_attacks(config):
        raise UsageError(
            f"workers.count = 0 with staleness.trainer_attacks = {config.staleness.trainer_attacks!r}"
            f"{' and staleness.lockstep' if config.staleness.lockstep else ''}: nobody would attack. Start at "
            f"least one worker, or set staleness.trainer_attacks to 'always'."
        )


def _check_device(config: Config) -> None:
    """The trainer's device, where this machine has it; each rank of a data-parallel run needs a GPU of its own."""
    if config.engine == "ray" and config.ray.address != "local":
        return
    reserved = config.trainer.num_gpus if config.engine == "ray" else float(torch.cuda.is_available())
    device, there = device_for(config.trainer.device, reserved), torch.cuda.device_count()
    if config.engine == "ddp" and device.type == "cuda" and config.ddp.ranks > there:
        raise UsageError(
            f"ddp.ranks = {config.ddp.ranks} with trainer.device = {config.trainer.device!r}: each rank needs a GPU, "
            f"this machine has {there}. Set ddp.ranks to at most {there}, or trainer.device to 'cpu'."
        )


def _check_batches(experiment: Experiment) -> None:
    """Batch norm has no statistics of one example: refuse a step, or a rank's share of one, that has a single one."""
    plan, config = experiment.plan, experiment.config
    networks = [experiment.model] if experiment.helper is None else [experiment.model, experiment.helper.network]
    if not any(isinstance(module, _BatchNorm) for network in networks for module in network.modules()):
        return
    for epoch in (0, plan.epochs - 1):
        tickets_of_last_step = (plan.shards(epoch) - 1) % plan.shards_per_step + 1
        divided = config.engine == "ddp" or config.trainer.count > 1
        if plan.smallest_ticket(epoch) == 1 and (divided or tickets_of_last_step == 1):
            raise UsageError(
                f"train.batch_size = {plan.batch_size} with {plan.examples(epoch)} training examples: model.name = "
                f"{config.model.name!r} has batch norm, and a training step on a single example has no batch "
                f"statistics. Set train.batch_size to at least 2, and use at least 2 training examples."
            )


def _check_evaluation(experiment: Experiment) -> None:
    """The test set can be attacked as the run's end will attack it."""
    test = experiment.test()
    if experiment.config.evaluation.attack == "autoattack":
        require_autoattack(test.shape, experiment.threat.norm, test.classes)
        attacks_for(test.classes, chosen=experiment.config.evaluation.attacks)
    targets_of(experiment.config.evaluation, test.classes)
    if experiment.config.evaluation.rolling:
        require_attackable(
            test.shape, experiment.threat.norm, test.classes, "evaluation.rolling", "Set evaluation.rolling to false"
        )
        attacks_of(experiment.config.evaluation, test.classes)


def _check_cluster(experiment: Experiment) -> None:
    """Ray can be started here, and the queue's server holds what the run puts into it."""
    from sparring.engines.ray.cluster import require_connectable  # other engines need neither Ray nor Redis
    from sparring.queue.opening import require_queue

    require_connectable(experiment.config.ray)
    require_queue(experiment.config, *experiment.queued)


def check_resources(config: Config) -> None:
    """Refuse more GPUs than there are before anything is started (a local Ray; a cluster may still grow)."""
    workers, trainer = config.workers, config.trainer
    wanted = workers.count * workers.num_gpus + trainer.count * trainer.num_gpus
    if wanted == 0 or config.ray.address != "local":
        return
    there = torch.cuda.device_count()
    if wanted > there:
        raise UsageError(
            f"workers.count x workers.num_gpus + trainer.count x trainer.num_gpus = {workers.count} x "
            f"{workers.num_gpus:g} + {trainer.count} x {trainer.num_gpus:g} = {wanted:g}, this machine has {there} "
            f"GPUs. Use fewer workers, fractions of a GPU, or 0 to attack on CPU."
        )
