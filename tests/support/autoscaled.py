"""Run by test_autoscaling.py as a process of its own PID namespace: a Ray head whose autoscaler makes fake nodes.

It starts the head, asks for two workers' nodes as a run does, puts an actor of a worker's size on each, lets all go and
prints as JSON how many worker nodes there were before, meanwhile and after.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray

from sparring.config import from_tree
from sparring.engines.ray.nodes import ask_for_nodes, let_nodes_go

HEAD_NODE = "f" * 51 + "00000"
RAY = (sys.executable, "-m", "ray.scripts.scripts")
TIMEOUT_S = 90.0
STARTS = 3  # on a busy machine Ray's own limit of 30 s can be too short for its agents
# `ray up` fills these in; a head that is started by hand must be given them.
EMPTY_LISTS = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
    "cluster_synced_files",
    "rsync_exclude",
    "rsync_filter",
)


def cluster(folder: Path, gcs_port: int) -> Path:
    """The autoscaler's file: node types as deploy/ray/aws.yaml names them, on the provider that fakes them here."""
    types = {
        "ray.head.default": {"resources": {"CPU": 2}, "node_config": {}, "max_workers": 0},
        "worker": {
            "resources": {"CPU": 1, "sparring_worker": 1},
            "node_config": {},
            "min_workers": 0,
            "max_workers": 2,
        },
    }
    content = {
        "cluster_name": "fake",
        "max_workers": 2,
        "upscaling_speed": 10,
        "idle_timeout_minutes": 0.05,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": f"127.0.0.1:{gcs_port}",
            "head_node_id": HEAD_NODE,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "auth": {},
        "available_node_types": types,
        "head_node_type": "ray.head.default",
        **{name: [] for name in EMPTY_LISTS},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
    }
    path = folder / "cluster.yaml"
    path.write_text(json.dumps(content))
    return path


def start_head(folder: Path, port: int) -> None:
    command = [
        *(*RAY, "start", "--head", f"--port={port}", "--num-cpus=2"),
        *(
            "--node-ip-address=127.0.0.1",
            "--include-dashboard=false",
            "--dashboard-agent-listen-port=0",
            "--min-worker-port=0",
            "--max-worker-port=0",
            "--object-store-memory=83886080",
        ),
        *(f"--autoscaling-config={cluster(folder, port)}", f"--temp-dir={folder / 'ray'}", "--disable-usage-stats"),
    ]
    environment = {
        "RAY_FAKE_CLUSTER": "1",
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_NODE,
        "RAY_CLOUD_INSTANCE_ID": HEAD_NODE,
        "RAY_NODE_TYPE_NAME": "ray.head.default",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    }
    for _ in range(STARTS):
        done = subprocess.run(
            command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if done.returncode == 0:
            return
        subprocess.run([*RAY, "stop", "--force"], capture_output=True)  # sees this namespace alone
    sys.exit(f"ray start failed {STARTS} times:\n{done.stdout}")


def worker_nodes() -> int:
    return sum(1 for node in ray.nodes() if node["Alive"] and "sparring_worker" in node["Resources"])


def until(holds: Callable[[], bool], otherwise: str) -> None:
    limit = time.monotonic() + TIMEOUT_S
    while not holds():
        if time.monotonic() > limit:
            sys.exit(f"{otherwise} within {TIMEOUT_S:.0f} s")
        time.sleep(0.2)


class Place:
    """Takes up the place of a worker."""

    def there(self) -> bool:
        return True


def main(folder: Path, port: int) -> None:
    start_head(folder, port)
    ray.init(address=f"127.0.0.1:{port}", log_to_driver=False)
    counts = [worker_nodes()]
    config = from_tree(
        {
            "ray": {"address": "auto"},
            "queue": {"redis_url": "redis://127.0.0.1:1"},
            "workers": {"count": 2, "num_cpus": 1, "num_gpus": 0, "resource": "sparring_worker"},
        }
    )
    ask_for_nodes(config)
    until(lambda: worker_nodes() == 2, "the nodes that were asked for did not come")
    place_of_worker = ray.remote(Place).options(num_cpus=1, resources={"sparring_worker": 0.001})
    places: list[Any] = [place_of_worker.remote(), place_of_worker.remote()]
    ray.get([place.there.remote() for place in places], timeout=TIMEOUT_S)
    counts.append(worker_nodes())
    for place in places:
        ray.kill(place)
    places.clear()
    let_nodes_go(config.ray)
    until(lambda: worker_nodes() == 0, "idle nodes were not let go")
    counts.append(worker_nodes())
    sys.stdout.write(json.dumps(counts) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
