"""The steps of an engine of one process, and which of them are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sparring.queue.ledger import reopened
from sparring.queue.messages import Key
from sparring.trainer.checkpoints import Checkpoint


@dataclass(frozen=True)
class Step:
    """A step that is to be made: the tickets of its batch, and which of the batch's replays it is (0 but in Free)."""

    keys: tuple[Key, ...]
    replay: int = 0

    @property
    def epoch(self) -> int:
        return self.keys[0].epoch


@dataclass
class Consumed:
    """Which tickets are trained on, as a ledger tells it; `replay`: that of the next step."""

    epoch: int = 0
    done: dict[str, list[int]] = field(default_factory=dict)
    replay: int = 0

    def add(self, step: Step, replays: int) -> None:
        """The step is made; its tickets are done with the last of the batch's replays."""
        self.replay = (step.replay + 1) % replays
        if self.replay:
            return
        if step.epoch != self.epoch:
            self.epoch = step.epoch
            self.done = {epoch: numbers for epoch, numbers in self.done.items() if int(epoch) >= step.epoch}
        self.done.setdefault(str(step.epoch), []).extend(key.number for key in step.keys)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps as its ledger."""
        return {"epoch": self.epoch, "done": self.done, "set_aside": {}, "replay": self.replay}


def consumed_by(checkpoint: Checkpoint | None, shards_by_epoch: Sequence[int]) -> Consumed:
    """Where to continue: from the checkpoint's record, or at the beginning."""
    if checkpoint is None:
        return Consumed()
    kept = checkpoint.ledger
    epoch, done = reopened(kept["epoch"], kept["done"], kept["set_aside"], shards_by_epoch)
    made = {str(index): sorted(numbers) for index, numbers in done.items()}
    return Consumed(epoch, made, kept.get("replay", 0))  # the Ray engine has no replays
