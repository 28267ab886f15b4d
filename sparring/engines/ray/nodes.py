"""What Ray's autoscaler is asked for: the nodes that the trainer and the target number of workers need, and no more."""

from __future__ import annotations

import logging

from ray.autoscaler import sdk

from sparring.config import Config, TrainerSettings, WorkersSettings

log = logging.getLogger(__name__)


def bundles(config: Config) -> list[dict[str, float]]:
    """What each actor reserves; what runs already is part of it, as the autoscaler expects."""
    return [_reserved(config.trainer), *[_reserved(config.workers)] * config.workers.count]


def ask_for_nodes(config: Config) -> None:
    """Ask for the whole cluster that the run is to have now; idle nodes beyond it are let go in the autoscaler's time.

    The request is the cluster's only one: the last run to ask wins, and another's nodes stay as long as its actors do.
    """
    _request(config, bundles(config))


def let_nodes_go(config: Config) -> None:
    """Ask for nothing any more."""
    _request(config, [])


def _request(config: Config, wanted: list[dict[str, float]]) -> None:
    """A hint, not a need: actors without a place are asked for by Ray too, one after the other."""
    if config.ray.address == "local":
        return
    try:
        sdk.request_resources(bundles=wanted)
    except Exception as error:  # whatever is wrong with it, training goes on
        log.warning("Ray's autoscaler was not told of %d actors: %s: %s", len(wanted), type(error).__name__, error)


def _reserved(settings: TrainerSettings | WorkersSettings) -> dict[str, float]:
    reserved = {"CPU": settings.num_cpus, "GPU": settings.num_gpus, **share_of(settings.resource)}
    return {name: amount for name, amount in reserved.items() if amount}


def share_of(resource: str | None) -> dict[str, float]:
    """So little of a custom resource that a node which declares 1 of it has room for every actor."""
    return {} if resource is None else {resource: 0.001}
