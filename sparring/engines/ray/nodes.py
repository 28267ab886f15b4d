"""Requests to Ray's autoscaler: the nodes that the trainer and the target number of workers need, and no more."""

from __future__ import annotations

import logging

from ray.autoscaler import sdk

from sparring.config import Config, RaySettings, TrainerSettings, WorkersSettings

log = logging.getLogger(__name__)


def bundles(trainer: TrainerSettings, workers: WorkersSettings) -> list[dict[str, float]]:
    """What each actor reserves, including those that run already, as the autoscaler expects."""
    return [*[_reserved(trainer)] * trainer.count, *[_reserved(workers)] * workers.count]


def ask_for_nodes(config: Config) -> None:
    """Request all nodes that the run needs now; the autoscaler removes idle nodes beyond them after its own time-out.

    A cluster has one such request: that of the last run counts, and nodes of another run stay while its actors do.
    """
    _request(config.ray, bundles(config.trainer, config.workers))


def let_nodes_go(settings: RaySettings) -> None:
    """Request no nodes any more."""
    _request(settings, [])


def _request(settings: RaySettings, wanted: list[dict[str, float]]) -> None:
    """Only a hint: Ray also requests nodes for actors that wait for one, but one after the other."""
    if settings.address == "local":
        return
    try:
        sdk.request_resources(bundles=wanted)
    except Exception as error:  # training continues without it
        log.warning(
            "no nodes requested from Ray's autoscaler for %d actors: %s: %s", len(wanted), type(error).__name__, error
        )


def _reserved(settings: TrainerSettings | WorkersSettings) -> dict[str, float]:
    reserved = {"CPU": settings.num_cpus, "GPU": settings.num_gpus, **share_of(settings.resource)}
    return {name: amount for name, amount in reserved.items() if amount}


def share_of(resource: str | None) -> dict[str, float]:
    """A small share of a custom resource, so that a node which declares 1 of it has room for every actor."""
    return {} if resource is None else {resource: 0.001}
