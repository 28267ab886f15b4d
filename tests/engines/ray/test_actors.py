"""The actors of a run are found by its own names, and a snapshot store is made only where weights need it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparring.config import new_run, with_workers
from sparring.engines.ray.actors import Actors
from sparring.queue.access import ROLES, Login
from sparring.queue.opening import Queue
from sparring.trainer.experiment import build_experiment
from tests.support.runs import Place, small

pytestmark = pytest.mark.ray

NOBODY = {role: Login(None, None) for role in ROLES}


def test_a_store_is_made_only_for_weights_that_travel_through_it_and_is_found_by_name(
    shared_ray: Place, tmp_path: Path
) -> None:
    import ray

    with ray.init(address=shared_ray(small(tmp_path)).ray.address, log_to_driver=False):
        made = []
        for route in ("redis", "object_store"):
            config = shared_ray(small(tmp_path, queue={"weights": route}))
            queue = Queue("redis://127.0.0.1:1/0", NOBODY, lambda config: 0)
            made.append(Actors(build_experiment(config), new_run(config), queue, {}))
        through_redis, through_store = made
        assert through_redis.store is None
        found = ray.get_actor(through_store.store_name)
        assert ray.get(found.newer.remote((0, -1), 0.01), timeout=60) is None
        with pytest.raises(ValueError, match="look up actor"):
            ray.get_actor(through_redis.store_name)


def test_a_worker_that_cannot_reach_the_queue_says_so(shared_ray: Place, tmp_path: Path) -> None:
    import ray

    config = with_workers(shared_ray(small(tmp_path, queue={"timeout_s": 0.1}, workers={"num_cpus": 0.1})), 1)
    with ray.init(address=config.ray.address, log_to_driver=False):
        queue = Queue("redis://127.0.0.1:1/0", NOBODY, lambda config: 0)
        actors = Actors(build_experiment(config), new_run(config), queue, {})
        worker = actors.worker("worker-0")
        with pytest.raises(ray.exceptions.RayActorError, match=r"no answer from Redis at 127\.0\.0\.1:1"):
            ray.get(worker.serve.remote(), timeout=60)
        ray.kill(worker, no_restart=True)
