"""Whether a shard is what its ticket asked for, by what it says of itself."""

from __future__ import annotations

from collections.abc import Callable

from sparring.attacks import AttackRecord
from sparring.queue.codec import Claims
from sparring.queue.messages import Ticket


def objection(
    claims: Claims, ticket: Ticket, shape: tuple[int, ...], step: int, known: Callable[[AttackRecord], bool]
) -> str:
    """Why the shard is refused; empty: it is not.

    Args:
        shape: of the run's images, (C, H, W). step: steps made, the newest version that weights can have. known:
            whether the run's recipe can have made an attack.
    """
    if claims.examples != len(ticket.indices):
        return f"it has {claims.examples} examples, its ticket {len(ticket.indices)}"
    if claims.shape != shape:
        return f"its perturbations have shape {claims.shape}, the images {shape}"
    if not ticket.version <= claims.start_version <= claims.version <= step:
        return f"its versions {claims.start_version} and {claims.version} are not within {ticket.version} to {step}"
    return "" if known(claims.attack) else f"it was made by {claims.attack}, which is not this recipe's attack"
