"""What a run without a queue has trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sparring.queue.messages import Key
from sparring.trainer.checkpoints import Checkpoint


@dataclass
class Consumed:
    """Which tickets the engines of one process have consumed, as a ledger would record them."""

    epoch: int
    done: dict[str, list[int]]

    def add(self, keys: Sequence[Key]) -> None:
        """These tickets of one step are trained on."""
        epoch = keys[0].epoch
        if epoch != self.epoch:
            self.epoch, self.done = epoch, {}
        self.done.setdefault(str(epoch), []).extend(key.number for key in keys)

    def ledger_state(self) -> dict[str, Any]:
        """What `Ledger.restore` takes."""
        return {"epoch": self.epoch, "done": self.done, "set_aside": {}}


def consumed_by(checkpoint: Checkpoint | None) -> Consumed:
    """Where to go on: the checkpoint's record, or the beginning."""
    if checkpoint is None:
        return Consumed(0, {})
    return Consumed(int(checkpoint.ledger["epoch"]), dict(checkpoint.ledger["done"]))
