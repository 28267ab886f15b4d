"""Everything that can be refused is refused here, before a folder is made or a server started."""

from __future__ import annotations

import torch

from sparring.commands.combinations import check_combinations
from sparring.commands.live import require_passed
from sparring.config import Config, check_staleness, trainer_attacks
from sparring.errors import UsageError
from sparring.models.forward import require_compiler
from sparring.models.starting import start_from
from sparring.observe.discovery import require_folder
from sparring.observe.trackers import require_trackers
from sparring.trainer.experiment import NOTHING_PASSED, Experiment, Live, build_experiment


def check(config: Config, live: Live = NOTHING_PASSED, *, starts: bool) -> Experiment:
    """Refuse what cannot work: combinations of settings, staleness, data (the test set too), model, GPUs, compiler.

    Where the run `starts`, the model has the weights that it starts from; where it goes on, they are not asked for.

    Raises:
        SparringError: the first thing that is wrong.
    """
    require_passed(config, live)
    check_combinations(config)
    require_folder(config.metrics.file_sd)
    require_trackers(config.metrics.trackers)
    if config.engine == "ray":
        if config.workers.count == 0 and not trainer_attacks(config):
            raise UsageError(
                f"workers.count = 0 with staleness.trainer_attacks = {config.staleness.trainer_attacks!r}"
                f"{' and staleness.lockstep' if config.staleness.lockstep else ''}: nobody would attack. Start at "
                f"least one worker, or set staleness.trainer_attacks to 'always'."
            )

        check_staleness(config.staleness)
        check_resources(config)
    if config.model.compile:
        require_compiler()
    experiment = build_experiment(config, live)
    _require_one_shape(config, experiment)
    if starts and live.model is None:
        start_from(
            config.model, experiment.model, experiment.training.shape, experiment.training.classes, config.train.seed
        )
    return experiment


def _require_one_shape(config: Config, experiment: Experiment) -> None:
    """Read the test set too, whose images the model must take as well."""
    training, test = experiment.training.shape, experiment.test().shape
    if test != training:
        raise UsageError(
            f"data.name = {config.data.name!r}: test images are {test} and training images {training} (C, H, W). Bring "
            f"them to one size, as data.size does."
        )


def check_resources(config: Config) -> None:
    """Refuse more GPUs than there are before anything is started (a local Ray; a cluster may still grow)."""
    wanted = config.workers.count * config.workers.num_gpus + config.trainer.num_gpus
    if wanted == 0 or config.ray.address != "local":
        return
    there = torch.cuda.device_count()
    if wanted > there:
        raise UsageError(
            f"workers.count x workers.num_gpus + trainer.num_gpus = {config.workers.count} x "
            f"{config.workers.num_gpus:g} + {config.trainer.num_gpus:g} = {wanted:g}, this machine has {there} GPUs. "
            f"Use fewer workers, fractions of a GPU, or 0 to attack on CPU."
        )
