"""Values that are derived from the settings. Each rule is written here once.

Threads: all processes together use as many threads as there are cores. More threads than cores are worse than idle
cores: the threads of a forward pass wait for each other by spinning, and the pass takes many times as long.
"""

from __future__ import annotations

from math import ceil

from sparring.config.schema import Config, DataSettings, StalenessSettings, WorkersSettings
from sparring.errors import UsageError
from sparring.machine.threads import cores


def depth(settings: StalenessSettings) -> int:
    """Number of steps whose shards may be outstanding beside the current step (docs/architecture.md, invariant 3)."""
    if settings.finish != "off":
        return settings.lead
    if settings.depth is not None:
        return settings.depth
    return max(0, min(3, settings.max_staleness - settings.publish_every))


def last_steps(settings: StalenessSettings, attack_steps: int) -> int:
    """Attack steps of a fresh finish under the weights that train on the ticket; 0: there is no fresh finish."""
    if settings.finish == "off":
        return 0
    return ceil(0.75 * attack_steps) if settings.finish == "auto" else min(settings.finish, attack_steps)


def with_workers(config: Config, count: int) -> Config:
    """The same configuration with `count` workers. The count may change while a run goes on."""
    return config.model_copy(update={"workers": config.workers.model_copy(update={"count": count})})


def image_size(data: DataSettings, epoch: int, epochs: int) -> int | None:
    """Side of a training image in `epoch` of `epochs`, in pixels; None: the size that the dataset has."""
    sizes = (phase.size for phase in data.phases if epoch < round(phase.until * epochs))
    return next(sizes, data.size)


def exchanges(settings: StalenessSettings) -> bool:
    """Whether workers load newer weights between two attack steps (in-flight exchange)."""
    return settings.exchange and settings.finish == "off" and not settings.lockstep and depth(settings) > 0


def slots_of(config: Config, views: bool = False) -> int:
    """Number of slots of each attacker; 0: it attacks each ticket alone, in a batch that shrinks.

    views: the attack makes views of the images instead of perturbations (`Attack.makes_views`).
    """
    setting = config.allocator.slots
    if setting != "auto":
        return setting
    on_gpu_workers = config.engine == "ray" and config.workers.num_gpus > 0 and config.staleness.finish == "off"
    steps_differ = config.allocator.name != "none" and not views
    possible = config.attack.restarts == 1 and not config.data.phases
    return config.train.batch_size if on_gpu_workers and steps_differ and possible else 0


def tickets_at_once(config: Config, views: bool = False) -> int:
    """Largest number of tickets that one worker attacks at the same time.

    Without exchange each ticket has its own weights, so tickets cannot share slots. With exchange three tickets about
    fill `batch_size` slots: at Hua et al.'s fractions (.28 with 10 steps, .54 with 2) one ticket keeps 39 % of the
    slots busy during its 10 steps.
    """
    return 3 if slots_of(config, views) and exchanges(config.staleness) else 1


def share_of_step(config: Config) -> int:
    """Tickets of a step that fall to each attacker, with a fresh finish: as many as it takes ahead."""
    attackers = config.workers.count + (config.trainer.count if trainer_attacks(config) else 0)
    return ceil(config.train.shards_per_step / max(1, attackers))


def gate_patience_s(config: Config) -> float:
    """How long an attacker waits for the weights of its last steps before it takes more than its share.

    Half a lease: when the lease of a lost ticket has expired, somebody has waited so long.
    """
    return config.queue.lease_s / 2


def bound(config: Config) -> int:
    """The staleness that no step of the run may exceed."""
    of_sync = config.staleness.lead if config.staleness.finish != "off" else 0
    asynchronous = config.staleness.max_staleness
    bounds = {"sync": of_sync, "ddp": 0, "simulated": config.simulated.staleness}
    return bounds.get(config.engine, asynchronous)


def check_staleness(settings: StalenessSettings) -> str | None:
    """Refuse settings that cannot make progress. Return a warning if shards will be dropped, else None.

    Raises:
        UsageError: with the inequality that fails.
    """
    if settings.finish != "off":
        return None  # a shard is at most `lead` steps old: commands/combinations
    bound, publish_every, run_depth = settings.max_staleness, settings.publish_every, depth(settings)
    if bound < publish_every - 1:
        raise UsageError(
            f"staleness.max_staleness = {bound} with staleness.publish_every = {publish_every} cannot make progress: "
            f"max_staleness >= publish_every - 1 fails ({bound} < {publish_every - 1}), so every step would need an "
            f"extra publication. Set max_staleness to at least {publish_every - 1}, or lower publish_every."
        )
    if run_depth > bound:
        raise UsageError(
            f"staleness.depth = {run_depth} exceeds staleness.max_staleness = {bound}: depth <= max_staleness fails, "
            f"shards would be too stale before they are consumed. Set depth to at most {bound}."
        )
    expected = run_depth + publish_every - 1 + (1 if run_depth else 0)
    if expected > bound:
        return (
            f"staleness.depth = {run_depth} and publish_every = {publish_every} lead to a staleness of {expected}, "
            f"above max_staleness = {bound}: expect up to {expected - bound} of {expected + 1} shards to be dropped "
            f"and attacked again when all permits are in use. No shard is dropped if depth + publish_every <= "
            f"max_staleness."
        )
    return None


def worker_threads(workers: WorkersSettings, trainers: int = 1) -> int:
    """Threads of a worker: on CPU an equal share of all cores but one for each trainer; on GPU one."""
    if workers.threads is not None:
        return workers.threads
    if workers.num_gpus > 0:
        return 1
    return max(1, (cores() - trainers) // max(workers.count, 1))


def trainer_threads(config: Config) -> int:
    """Threads of the trainer: all cores if it is the only process, an equal share for each rank under ddp, one if the
    workers have GPUs, else the cores that the workers leave, in equal shares for trainers in parallel."""
    count = config.trainer.count
    if config.trainer.threads is not None:
        return config.trainer.threads
    if config.engine == "ddp":
        return max(1, cores() // config.ddp.ranks)
    if config.engine != "ray":
        return cores()
    if config.workers.count > 0 and config.workers.num_gpus > 0:
        return 1
    return max(1, (cores() - config.workers.count * worker_threads(config.workers, count)) // count)


def trainer_attacks(config: Config) -> bool:
    """Whether the trainer attacks shards itself while it would wait."""
    settings = config.staleness
    allowed = {"auto": trainer_would_idle(config), "always": True, "never": False}[settings.trainer_attacks]
    return allowed and not settings.lockstep


def trainer_would_idle(config: Config) -> bool:
    """Whether the trainer's device would be idle: it has its own GPU, or the workers leave cores free."""
    if config.trainer.num_gpus > 0 or config.engine == "virtual":
        return True
    on_cpu, count = config.workers.count if config.workers.num_gpus == 0 else 0, config.trainer.count
    return on_cpu * worker_threads(config.workers, count) + count * trainer_threads(config) <= cores()
