"""What a run needs of this machine, looked at piece by piece before one is made.

torch, Ray and the data are imported where they are looked at: what is broken is to be told, not to end the doctor.
Run as a module it is the process that `examine` looks at Ray with (configuration on stdin, JSON on stdout).
"""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sparring.config import Config, from_tree, trainer_threads, worker_threads
from sparring.errors import SparringError
from sparring.machine.threads import cores

DISK_BYTES = 1 << 30
ACTOR_TIMEOUT_S = 60.0
RAY_TIMEOUT_S = 120.0
REDIS_TIMEOUT_S = 5.0
LISTENING = "0A"  # state of a socket in /proc/net/tcp
BROKEN = (SparringError, ImportError, OSError, RuntimeError)  # how an installation fails that cannot be used


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; `remedy` says what to do where `ok` is false."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return asdict(self)


class Found(NamedTuple):
    """What one look found."""

    ok: bool
    detail: str


def examine(config: Config) -> list[Check]:
    """Look at everything that a run by `config` needs; never raises, never waits without an end."""
    looks: list[tuple[str, Callable[[Config], Found], str]] = [
        ("python", _python, "Make the environment anew with Python 3.11, 3.12 or 3.13."),
        ("torch", _torch, "Install a build of torch for CUDA, or set num_gpus to 0 and trainer.device to auto."),
        ("torchvision", _torchvision, "Install the torchvision that belongs to the installed torch."),
        ("cuda in ray", _cuda_in_ray, "Set trainer.num_gpus and workers.num_gpus to what is there, or to 0."),
        ("redis", _redis, "Do what it says, or unset queue.redis_url for an embedded server."),
        ("port", _port, "Choose another metrics.port, or 0 for a free one."),
        ("disk", _disk, "Set run.root to a folder with room that you may write to."),
        ("data", _data, "Set data.root to the folder that holds the files, or data.download to true."),
        ("cores", _cores, "Use fewer workers, or lower workers.threads and trainer.threads."),
    ]
    return [_check(name, look, remedy, config) for name, look, remedy in looks]


def _check(name: str, look: Callable[[Config], Found], remedy: str, config: Config) -> Check:
    try:
        ok, detail = look(config)
    except BROKEN as error:
        ok, detail = False, str(error) or type(error).__name__
    if not ok and name in ("cuda in ray", "redis") and config.engine != "ray":
        ok, detail = True, f"{detail} (engine = {config.engine} does not need it)"
    return Check(name, ok, detail, "" if ok else remedy)


def _python(config: Config) -> Found:
    return Found((3, 11) <= sys.version_info[:2] <= (3, 13), f"{platform.python_version()}; 3.11 to 3.13 are supported")


def _torch(config: Config) -> Found:
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    wanted = _gpus(config) > 0 or config.trainer.device == "cuda"
    return Found(not wanted or torch.version.cuda is not None, f"{torch.__version__}, {build} build")


def _torchvision(config: Config) -> Found:
    from sparring.machine.torchvision_import import torchvision

    return Found(True, str(torchvision().__version__))


def _gpus(config: Config) -> float:
    """GPUs that Ray must have for the whole run."""
    return config.trainer.num_gpus + config.workers.count * config.workers.num_gpus


def _cuda_in_ray(config: Config) -> Found:
    """A driver and its environment may see a GPU that an actor does not: so an actor is asked."""
    seen = _ask_actor(config)
    if "error" in seen:
        return Found(False, str(seen["error"]))
    wanted, there = _gpus(config), float(seen["gpus"])
    detail = (
        f"torch.cuda.is_available() = {seen['available']} in an actor"
        + (f" on {seen['device']}" if seen["device"] else "")
        + f"; Ray has {there:g} GPUs, the run asks for {wanted:g}"
    )
    needs_cuda = wanted > 0 or config.trainer.device == "cuda"
    enough = wanted <= there or config.ray.address != "local"  # a cluster may still grow
    return Found(enough and (seen["available"] or not needs_cuda), detail)


def _ask_actor(config: Config) -> dict[str, Any]:
    """`look_inside_actor` in a process of its own, which can be ended when it hangs (its Ray ends with it)."""
    child = subprocess.Popen(
        [sys.executable, "-m", "sparring.commands.doctor"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        said, errors = child.communicate(config.model_dump_json(exclude_none=True), timeout=RAY_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait(10)
        raise SparringError(f"Ray did not start an actor within {RAY_TIMEOUT_S:.0f} s.") from None
    lines = said.strip().splitlines()
    if child.returncode != 0 or not lines:
        raise SparringError(f"Ray could not be started: {(errors.strip().splitlines() or ['it said nothing'])[-1]}")
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer


def look_inside_actor(config: Config) -> dict[str, Any]:
    """Start Ray as a run does and ask an actor with the trainer's GPUs: available, device, gpus; or the error.

    Where a local Ray has fewer GPUs than that, an actor without any is asked: the other would wait for ever.
    """
    import ray

    from sparring.engines.ray.driver import ray_cluster

    no_workers = config.workers.model_copy(update={"count": 0})
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    try:
        with ray_cluster(config.model_copy(update={"workers": no_workers})):
            gpus = float(ray.cluster_resources().get("GPU", 0))
            reserved = config.trainer.num_gpus or min(config.workers.num_gpus, _gpus(config))
            possible = reserved <= gpus or config.ray.address != "local"
            options = {"num_cpus": config.trainer.num_cpus, "num_gpus": reserved if possible else 0}
            eye = ray.remote(_Eye).options(**options).remote()
            available, device = ray.get(eye.look.remote(), timeout=ACTOR_TIMEOUT_S)
            return {"available": available, "device": device, "gpus": gpus}
    except ray.exceptions.GetTimeoutError:
        return {"error": f"no actor with num_gpus = {reserved:g} answered within {ACTOR_TIMEOUT_S:.0f} s"}
    except (SparringError, ray.exceptions.RayError) as error:
        return {"error": str(error)}


class _Eye:
    """The actor."""

    def look(self) -> tuple[bool, str]:
        import torch

        available = torch.cuda.is_available()
        return available, torch.cuda.get_device_name(0) if available else ""


def _redis(config: Config) -> Found:
    """The server as a run opens it, and what it says of itself."""
    import redis

    quick = config.queue.model_copy(update={"timeout_s": min(config.queue.timeout_s, REDIS_TIMEOUT_S)})
    try:
        return _server(config.model_copy(update={"queue": quick}))
    except redis.RedisError as error:
        raise SparringError(f"queue.redis_url: what answers there is no usable Redis ({error}).") from error


def _server(config: Config) -> Found:
    from sparring.queue.connection import check_server, connect, describe, password_of
    from sparring.queue.opening import open_queue

    settings = config.queue
    if settings.redis_url is not None:  # reached in vain, it is not waited for as long as a run would
        with connect(settings.redis_url, password_of(settings), settings.timeout_s) as client:
            check_server(client, 0, settings.timeout_s)
    with (
        open_queue(config, *_sizes(config)) as queue,
        connect(queue.url, queue.password, settings.timeout_s) as client,
    ):
        told: dict[str, Any] = dict(client.info())
        product = f"Valkey {told['valkey_version']}" if "valkey_version" in told else f"Redis {told['redis_version']}"
        where = "embedded" if queue.embedded else f"at {describe(client)}"
        memory = f"{int(told['maxmemory']) / 2**20:.0f} MiB" if int(told["maxmemory"]) else "without bound"
        return Found(True, f"{product} {where}, {told['maxmemory_policy']}, maxmemory {memory}")


def _sizes(config: Config) -> tuple[tuple[int, int, int], int]:
    """Shape of an image and bytes of the weights; without data a single pixel, so that the server is looked at all
    the same."""
    from sparring.models.arrays import size_bytes
    from sparring.trainer.experiment import build_experiment

    try:
        experiment = build_experiment(config)
    except SparringError:
        return (1, 1, 1), 0
    return experiment.training.shape, size_bytes(experiment.model)


def _port(config: Config) -> Found:
    settings = config.metrics
    if not settings.enabled or not settings.port:
        return Found(True, "metrics.port: a free one is taken" if settings.enabled else "metrics are off")
    where = f"metrics.port = {settings.port} on metrics.bind = {settings.bind}"
    try:
        family, kind, _, _, address = socket.getaddrinfo(settings.bind, settings.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        holder = _holder(settings.port)
        return Found(False, f"{where}: {error.strerror}" + (f", held by {holder}" if holder else ""))
    return Found(True, f"{where} is free")


def _holder(port: int) -> str | None:
    """Name and process id of who listens on `port`, where this system tells and we may look."""
    try:
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    except OSError:
        return None
    sockets = {f"socket:[{row[9]}]" for row in rows if row[3] == LISTENING and int(row[1].split(":")[1], 16) == port}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(file) in sockets for file in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text().strip()} (process {process.name})"
        except OSError:  # it has ended, or is another user's
            continue
    return None


def _disk(config: Config) -> Found:
    folder = config.run.root.expanduser().absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    writable = there.is_dir() and os.access(there, os.W_OK)
    detail = f"run.root = {config.run.root}: {free / 2**30:.1f} GiB free, {DISK_BYTES / 2**30:.0f} GiB are needed"
    return Found(free >= DISK_BYTES and writable, detail if writable else f"{detail}; {there} is not writable")


def _data(config: Config) -> Found:
    from sparring.data import load

    train, test = load(config.data, "train"), load(config.data, "test")
    shape = " x ".join(map(str, train.shape))
    return Found(
        len(train) > config.data.holdout,
        f"data.name = {config.data.name}: {len(train)} training examples ({config.data.holdout} of them held out), "
        f"{len(test)} test examples, {shape}, {train.classes} classes",
    )


def _cores(config: Config) -> Found:
    """Too many threads make a run slow, not wrong: they are told of, no more."""
    there, of_trainer = cores(), trainer_threads(config)
    if config.engine != "ray":
        return Found(True, f"{there} cores, {of_trainer} threads")
    of_worker = worker_threads(config)
    used = config.workers.count * of_worker + of_trainer
    shared = f"; {used} threads share {there} cores, and may limit the run" if used > there else ""
    where = "x" if config.workers.num_gpus == 0 else "on GPUs x"
    return Found(
        True, f"{there} cores: {config.workers.count} workers {where} {of_worker} threads, trainer {of_trainer}{shared}"
    )


if __name__ == "__main__":
    sys.stdout.write(json.dumps(look_inside_actor(from_tree(json.load(sys.stdin)))) + "\n")
