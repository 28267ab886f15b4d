"""The attacks of the trainers themselves, whose steps take virtual time."""

from __future__ import annotations

from sparring.engines.asynchronous.own_attack import OwnAttacks
from sparring.engines.virtual.cluster import Cluster
from sparring.queue.messages import RankOf, Shard


class Timed:
    """A trainer's own attacks: what their next step takes. Preparing a ticket takes the time of its clean pass."""

    def __init__(self, own: OwnAttacks, cluster: Cluster, prepare_s: float) -> None:
        self.own, self._cluster, self._prepare_s = own, cluster, prepare_s
        self._owed_s = 0.0

    def begin(self) -> bool:
        """Take a ticket into work, which may prepare it."""
        begun = self.own.begin()
        if begun and self.own.active is not None:
            self._owed_s += self._prepare_s
        return begun

    def advance(self) -> tuple[float, Shard | None]:
        """The next step, made now: what it takes, and the shard that it has finished."""
        active, owed_s = self.own.active, self._owed_s
        self._owed_s = 0.0
        seconds = owed_s + (self._prepare_s if active is None else self._cluster.attack_step_s(active))
        return self._cluster.varied(seconds), self.own.advance()


class VirtualOwn:
    """The attacks of the first trainer, which does nothing else during a step of them."""

    def __init__(self, own: OwnAttacks, cluster: Cluster, prepare_s: float, me: RankOf) -> None:
        self._own, self._timed, self._cluster, self._me = own, Timed(own, cluster, prepare_s), cluster, me

    @property
    def ready(self) -> bool:
        return self._own.ready

    @property
    def active(self) -> int | None:
        return self._own.active

    def begin(self) -> bool:
        return self._timed.begin()

    def advance(self) -> Shard | None:
        seconds, shard = self._timed.advance()
        self._cluster.advance(seconds)
        if shard is None:
            return None
        shard = self._cluster.timed(shard)
        if self._me.trains_on(shard.key):
            return shard
        self._cluster.deliver(shard, self._me)
        return None

    def fail(self, error: str) -> None:
        self._own.fail(error)

    def drop(self) -> None:
        self._own.drop()


class VirtualRank:
    """Another trainer: it attacks by itself between training steps, under the weights of the first one."""

    def __init__(self, own: OwnAttacks, cluster: Cluster, prepare_s: float, me: RankOf) -> None:
        self._own, self._timed, self._cluster, self._me = own, Timed(own, cluster, prepare_s), cluster, me
        self._free_at, self._busy, self._training, self._alive = 0.0, False, False, True
        cluster.wakers.append(self.wake)

    @property
    def busy_s(self) -> float:
        """Seconds until the attack step under way has ended."""
        return max(0.0, self._free_at - self._cluster.now)

    def die(self) -> None:
        """It is gone, with its tickets."""
        self._own.drop()
        self._cluster.wakers.remove(self.wake)
        self._alive = False

    def train(self) -> None:
        """It begins no attack step until `wake_up`."""
        self._training = True

    def wake_up(self) -> None:
        """The training step has ended."""
        self._training = False
        self.wake()

    def wake(self) -> None:
        """Make an attack step, if there is a ticket that can go on."""
        if self._busy or self._training or not (self._own.ready or self._timed.begin()):
            return
        seconds, shard = self._timed.advance()
        self._busy, self._free_at = True, self._cluster.now + seconds
        self._cluster.after(seconds, lambda: self._end(shard))

    def _end(self, shard: Shard | None) -> None:
        if not self._alive:
            return
        self._busy = False
        if shard is not None:
            self._cluster.deliver(self._cluster.timed(shard), self._me)
        self.wake()
