"""What a shard and a step of a run take, as running means, and what follows from that for permits and refresh. Pure."""

from __future__ import annotations

from math import ceil

KNOWN_AFTER = 3  # shards: the first ones include what happens only once
REFRESH_STEP = 0.7  # time of an attack step, as a share of a training step on the same examples
MOST_REFRESH_STEPS = 2


class Pace:
    """Running means in seconds, 0 before the first value.

    attack_s: of a shard's attack. step_s: of a training step, for one shard. idle_s: for which the device idles before
    a step. half_s: until half of a step's shards have come.
    """

    def __init__(self, shards_per_step: int) -> None:
        self.attack_s = self.step_s = self.idle_s = self.half_s = 0.0
        self.arrivals = 0
        self._shards_per_step, self._half_of = shards_per_step, -1

    def arrived(self, attack_s: float) -> None:
        """A shard has come."""
        self.arrivals += 1
        self.attack_s = running_mean(self.attack_s, attack_s)

    def stepped(self, seconds: float, shards: int) -> None:
        """A step on so many shards was made."""
        self.step_s = running_mean(self.step_s, seconds / shards)

    def idled(self, seconds: float) -> None:
        """The device has idled before a step."""
        self.idle_s = running_mean(self.idle_s, seconds)

    def waits(self, step: int, ready: int, waited_s: float) -> None:
        """A step, of which `ready` shards have come, has waited so long; when half have come counts."""
        if self._half_of != step and 2 * ready >= self._shards_per_step:
            self._half_of = step
            self.half_s = running_mean(self.half_s, waited_s)

    def is_late(self, waited_s: float, times: float) -> bool:
        """Whether a step has waited so many times as long as half of a step's shards take in the mean, or a training
        step."""
        return self.step_s > 0 and waited_s > times * max(self.half_s, self.step_s * self._shards_per_step)

    def in_flight(self, tickets_at_once: int) -> int:
        """Permits for shards being attacked: attack time over step time, but no more than the attackers work on at
        once, or finished shards would queue up behind a waiting step."""
        known = self.arrivals >= KNOWN_AFTER and self.step_s > 0
        ratio = ceil(self.attack_s / self.step_s) if known else tickets_at_once
        return max(self._shards_per_step, min(tickets_at_once, ratio), 1)

    def refresh_steps(self, shards: int) -> int:
        """Further attack steps on so many shards that fit into the time for which the device idles."""
        fit = self.idle_s / max(REFRESH_STEP * self.step_s * shards, 1e-9)
        return min(int(fit), MOST_REFRESH_STEPS)


def running_mean(mean: float, value: float, weight: float = 0.1) -> float:
    """Exponential running mean; the first value is taken as it is."""
    return value if mean == 0 else (1 - weight) * mean + weight * value
