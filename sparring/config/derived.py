"""What follows from the settings; each rule stands here once.

Threads: together the processes use the cores once. More threads than cores are worse than idle cores: those of one pass
wait for each other by spinning, and passes take many times as long.
"""

from __future__ import annotations

from sparring.config.schema import Config, StalenessSettings
from sparring.errors import UsageError
from sparring.machine.threads import cores


def depth(settings: StalenessSettings) -> int:
    """Steps' worth of shards that may be outstanding beside the current step (docs/architecture.md, invariant 3)."""
    if settings.depth is not None:
        return settings.depth
    return max(0, min(3, settings.max_staleness - settings.publish_every))


def with_workers(config: Config, count: int) -> Config:
    """The same with `count` workers, which may change while a run goes on."""
    return config.model_copy(update={"workers": config.workers.model_copy(update={"count": count})})


def image_size(config: Config, epoch: int) -> int | None:
    """Pixels of a training image's side in `epoch`; None: what the dataset has."""
    sizes = (phase.size for phase in config.data.phases if epoch < round(phase.until * config.train.epochs))
    return next(sizes, config.data.size)


def exchanges(config: Config) -> bool:
    """Whether workers swap newer weights in between two attack steps."""
    settings = config.staleness
    return settings.exchange and not settings.lockstep and depth(settings) > 0


def makes_views(config: Config) -> bool:
    """Whether views of the images take the place of perturbations."""
    return config.attack.name == "augmix"


def slots_of(config: Config) -> int:
    """Slots that each attacker has; 0: it attacks ticket by ticket, in a batch that shrinks."""
    asked = config.allocator.slots
    if asked != "auto":
        return asked
    streams = config.engine == "ray" and config.workers.num_gpus > 0
    spares = config.allocator.name != "none" and not makes_views(config)
    possible = config.attack.restarts == 1 and not config.data.phases
    return config.train.batch_size if streams and spares and possible else 0


def tickets_at_once(config: Config) -> int:
    """Tickets that one worker has in work at most.

    Without exchange each ticket has weights of its own, which slots cannot share. Three about fill a batch's worth of
    slots: at Hua et al.'s fractions (.28 of 10 steps, .54 of 2) a ticket keeps 39 % of them busy for its 10 steps.
    """
    return 3 if slots_of(config) and exchanges(config) else 1


def bound(config: Config) -> int:
    """The staleness that no step of the run exceeds."""
    bounds = {"sync": 0, "ddp": 0, "simulated": config.simulated.staleness, "ray": config.staleness.max_staleness}
    return bounds[config.engine]


def check_staleness(settings: StalenessSettings) -> str | None:
    """Refuse what cannot make progress; return a warning where shards will be dropped, else None.

    Raises:
        UsageError: with the inequality that fails.
    """
    bound, every, deep = settings.max_staleness, settings.publish_every, depth(settings)
    if bound < every - 1:
        raise UsageError(
            f"staleness.max_staleness = {bound} with staleness.publish_every = {every} cannot make progress: "
            f"max_staleness >= publish_every - 1 fails ({bound} < {every - 1}), every step would force an extra "
            f"publication. Set max_staleness to at least {every - 1}, or publish more often."
        )
    if deep > bound:
        raise UsageError(
            f"staleness.depth = {deep} exceeds staleness.max_staleness = {bound}: depth <= max_staleness fails, "
            f"shards would be out of date before they are consumed. Set depth to at most {bound}."
        )
    expected = deep + every - 1 + (1 if deep else 0)
    if expected > bound:
        return (
            f"staleness.depth = {deep} and publish_every = {every} reach a staleness of {expected}, the bound is "
            f"{bound}: expect up to {expected - bound} of {expected + 1} shards dropped and attacked again when "
            f"all permits are in use. depth + publish_every <= max_staleness is free of drops."
        )
    return None


def worker_threads(config: Config) -> int:
    """An equal share of the cores for each worker on CPU, one core being left to the trainer; one on GPU."""
    if config.workers.threads is not None:
        return config.workers.threads
    if config.workers.num_gpus > 0:
        return 1
    return max(1, (cores() - 1) // max(config.workers.count, 1))


def trainer_threads(config: Config) -> int:
    """All cores for one process; what workers on CPU leave, or as many as another rank has; one beside GPUs."""
    if config.trainer.threads is not None:
        return config.trainer.threads
    if config.engine == "ddp":
        return max(1, cores() // config.ddp.ranks)
    if config.engine != "ray" or config.workers.count == 0:
        return cores()
    if config.workers.num_gpus > 0:
        return 1
    return max(1, cores() - config.workers.count * worker_threads(config))


def trainer_attacks(config: Config) -> bool:
    """Whether the trainer makes shards itself while it would wait."""
    settings = config.staleness
    allowed = {"auto": trainer_would_idle(config), "always": True, "never": False}[settings.trainer_attacks]
    return allowed and not settings.lockstep


def trainer_would_idle(config: Config) -> bool:
    """The trainer's device is not filled by workers: it has a GPU of its own, or cores are left over."""
    if config.trainer.num_gpus > 0:
        return True
    on_cpu = config.workers.count if config.workers.num_gpus == 0 else 0
    return on_cpu * worker_threads(config) + trainer_threads(config) <= cores()
