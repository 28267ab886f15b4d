"""How stale the shards of a run with workers will be on average. Pure: from the times that were measured."""

from __future__ import annotations

from math import ceil

from sparring.commands.calibration import Measured
from sparring.config import Config, depth, exchanges, last_steps, tickets_at_once, trainer_attacks
from sparring.trainer.experiment import methods_of

WAKINGS, WAKING_S = 4, 0.008  # pushing, receiving, publishing, fetching; seconds until a thread gets a busy core
COUNTED_STEPS = 2  # a shard's version is the older one of its last two attack steps (docs/architecture.md)


def mean_staleness(config: Config, measured: Measured, rate: float) -> float:
    """Mean staleness in steps, where the run trains on `rate` shards per second.

    The staleness of a shard is the number of steps that end after its weights were taken and before its own step
    begins. Weights are taken before the attack, with exchange before its last two steps. From there on it takes

    1. these attack steps, longer where attackers share cores,
    2. encoding, sending and decoding the shard,
    3. a training step, since a step that had begun before the weights were taken ends after it,
    4. the sending and loading of the weights, since what has not arrived is not taken,
    5. waking up, four times, where there are more processes than cores.

    In this time the other attackers finish shards at their share of `rate`, and M shards are a step. That a shard waits
    for the others of its step adds nothing: no step ends meanwhile. The attacker's own shard before comes in addition
    if the time is longer than an attack. The published weights are (K - 1)/2 steps old on average (K: publish_every).

    Where workers keep the trainer busy all the time, shards wait for it, and there are as many as there are permits.
    Then Little's law takes the place of 1 to 3: the outstanding shards that age, without those of the present step,
    over M. It is the limit of any run. A fresh finish fixes the staleness: 0, or `lead` if one attack step is fresh.
    """
    of_step, settings = config.train.shards_per_step, config.staleness
    if settings.finish != "off":
        steps = methods_of(config).attack.steps
        return 0.0 if last_steps(settings, steps) >= min(COUNTED_STEPS, steps) else settings.lead
    ratio = measured.attack_s / measured.step_s
    permitted = outstanding_shards(config, ratio, measured.makes_views) - of_step
    in_flight = min(ratio, permitted)
    most = (permitted - in_flight + ageing(config, in_flight)) / of_step
    late = measured.publication_s * rate / of_step + (settings.publish_every - 1) / 2
    if config.workers.count < ratio:
        most, late = permitted / of_step, (settings.publish_every - 1) / 2
        most = min(most, _while_on_its_way(config, measured, rate))
    return min(most + late, settings.max_staleness)


def _while_on_its_way(config: Config, measured: Measured, rate: float) -> float:
    """Steps that end during 1 to 5 of a shard's way, of a trainer that has time left."""
    own, of_step = trainer_attacks(config), config.train.shards_per_step
    attackers = config.workers.count + own
    if attackers == 0 or rate == 0:
        return 0.0
    attack_s = attackers / rate - own * measured.step_s  # by the clock
    window_s = ageing(config, attack_s) + of_step * measured.step_s + measured.latency_s
    if shares_cores(config, measured):
        window_s += WAKINGS * WAKING_S
    others = (attackers - 1) / attackers * rate * window_s / of_step
    return others + (1 / of_step if window_s >= attack_s else 0.0)


def shares_cores(config: Config, measured: Measured) -> bool:
    """Whether the processes of the run are more than the cores of its only machine."""
    on_cores = measured.attack_core_s > 0 and config.ray.address == "local"
    return on_cores and config.workers.count + 1 > measured.cores


def ageing(config: Config, whole: float) -> float:
    """The part of a whole attack, or of the shards in flight, for which a shard's weights age during the attack."""
    attack = methods_of(config).attack
    if not exchanges(config.staleness):
        return whole
    return whole * min(1.0, COUNTED_STEPS / (attack.steps * attack.restarts))


def outstanding_shards(config: Config, ratio: float, views: bool = False) -> int:
    """Number of permits: (d + 1)·M; with exchange d·M plus the shards in flight.

    In flight are one shard of the trainer, if it attacks, and for each worker as many as it attacks at the same time.
    """
    deep, of_step = depth(config.staleness), config.train.shards_per_step
    attackers = config.workers.count * tickets_at_once(config, views) + (1 if trainer_attacks(config) else 0)
    return deep * of_step + (max(of_step, min(attackers, ceil(ratio)), 1) if exchanges(config.staleness) else of_step)
