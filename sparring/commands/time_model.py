"""The constants of the virtual clock, measured: what each part of a recipe takes on this machine, for a few seconds.

A device is one core, or one GPU. An attack step, a forward pass and a training step are timed on a shard and on an
eighth of it; the line through both is their constant and their part for each example.
"""

from __future__ import annotations

import platform

import tomli_w
import torch

from sparring.attacks import Attack, frozen
from sparring.commands.calibration import example_shard, finish, measure, torch_threads, without_allocator
from sparring.config import VirtualSettings, overridden
from sparring.errors import SparringError, UsageError
from sparring.machine.threads import cores
from sparring.machine.timing import median_seconds
from sparring.models.forward import for_training
from sparring.queue.messages import Controls, Key
from sparring.trainer.experiment import Experiment, build_experiment
from sparring.trainer.learner import Learner
from sparring.workers.generator import begin
from sparring.workers.task import Task

PART = 8  # the smaller batch is a shard over this
WRITTEN = {  # into the file
    *("attack_s", "attack_example_s", "forward_s", "forward_example_s", "step_s", "step_example_s"),
    *("publish_s", "load_s", "push_s", "message_s", "bandwidth", "jitter"),
}


def time_model(experiment: Experiment) -> VirtualSettings:
    """Measure attack step, forward pass, training step and latencies. Between devices nothing can be measured here:
    message_s, bandwidth and jitter are those of the recipe.

    Raises:
        UsageError: the attack makes views: it has no steps.
        SparringError: no server can be started, to which the latencies could be measured.
    """
    if not isinstance(experiment.attack, Attack):
        raise UsageError(
            f"attack.name = {experiment.config.attack.name!r}: it has no attack steps whose time could be measured. "
            f"Set attack.name to 'pgd', or give the settings of [virtual] yourself."
        )
    measured, found = measure(experiment, asynchronous=True), dict[str, float]()
    if measured.round_trip_s is None:
        raise SparringError(
            "virtual.publish_s and virtual.push_s cannot be measured: no queue server could be started here. "
            "`sparring doctor` says why; or give the settings of [virtual] yourself."
        )
    device = torch.device("cuda" if measured.gpus else "cpu")
    both = _smaller(experiment), experiment
    with torch_threads(1):
        for name, seconds in (("attack", _attack_step_s), ("forward", _forward_s), ("step", _step_s)):
            points = [(len(each.plan.indices(0, 0)), seconds(each, device)) for each in both]
            found[f"{name}_s"], found[f"{name}_example_s"] = line(*points)
    latencies = {"publish_s": measured.snapshot_send_s, "load_s": measured.snapshot_load_s}
    latencies["push_s"] = measured.transport_s
    return experiment.config.virtual.model_copy(update=found | latencies)


def line(small: tuple[int, float], large: tuple[int, float]) -> tuple[float, float]:
    """Constant and slope through two points (examples, seconds); neither is below 0."""
    (few, small_s), (many, large_s) = small, large
    if few == many:
        return 0.0, large_s / many
    slope = max(0.0, (large_s - small_s) / (many - few))
    constant = large_s - slope * many
    return (constant, slope) if constant > 0 else (0.0, large_s / many)


def to_file(model: VirtualSettings, experiment: Experiment) -> str:
    """The model as a TOML file for `virtual.times`, with its origin in a comment."""
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else f"one of {cores()} cores ({_processor()})"
    config = experiment.config
    values = {name: float(f"{value:.3g}") for name, value in model.model_dump(mode="json", include=WRITTEN).items()}
    origin = (
        f"# Measured by `sparring calibrate`: {config.model.name} on {config.data.name}, {experiment.method},",
        f"# shards of {config.train.batch_size}; {device}, torch {torch.__version__}.",
        "# Not measured: message_s, bandwidth, jitter.",
    )
    return "\n".join([*origin, tomli_w.dumps({"virtual": values})])


def _processor() -> str:
    """Its name where the system tells it, else its architecture."""
    return platform.processor() or platform.machine()


def _smaller(experiment: Experiment) -> Experiment:
    """The same with shards of an eighth of the examples."""
    size = max(2, experiment.config.train.batch_size // PART)
    return build_experiment(overridden(experiment.config, {"train.batch_size": size}), experiment.live)


def _attack_step_s(experiment: Experiment, device: torch.device) -> float:
    model = for_training(experiment.model.to(device), experiment.config.model)
    context = without_allocator(experiment.context(model))
    task, controls = Task(Key(0, 0, 0), experiment.plan.indices(0, 0)), Controls(experiment.attack.epsilon)
    current = [begin(task, context, controls, 0)]

    def advance() -> None:
        if current[0].done:
            current[0] = begin(task, context, controls, 0)
        current[0].advance(0)
        finish(device)

    with frozen(model):
        return median_seconds(advance)


def _forward_s(experiment: Experiment, device: torch.device) -> float:
    model = for_training(experiment.model.to(device), experiment.config.model)
    x = torch.rand(len(experiment.plan.indices(0, 0)), *experiment.training.shape, device=device)

    def forward() -> None:
        model(x)
        finish(device)

    with frozen(model), torch.no_grad():
        return median_seconds(forward)


def _step_s(experiment: Experiment, device: torch.device) -> float:
    learner, shard = Learner(experiment, device), example_shard(experiment)

    def step() -> None:
        learner.learn(learner.batch([shard]), 0)
        finish(device)

    return median_seconds(step)
