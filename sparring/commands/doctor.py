"""Check what a run needs of this machine, before a run is made.

torch, Ray and the data are imported inside their checks, so that a broken installation is reported as a failed check.
Run as a module, this file is the subprocess in which `examine` starts Ray (configuration on stdin, JSON on stdout).
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
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from sparring.config import Config, from_tree, trainer_threads, worker_threads
from sparring.errors import SparringError
from sparring.machine.threads import cores

DISK_BYTES = 1 << 30
ACTOR_TIMEOUT_S = 60.0
RAY_TIMEOUT_S = 120.0
REDIS_TIMEOUT_S = 5.0
LISTENING = "0A"  # state of a socket in /proc/net/tcp
BROKEN = (SparringError, ImportError, OSError, RuntimeError)  # errors of a broken installation


@dataclass(frozen=True)
class Check:
    """The result of one check; `remedy` says what to do if `ok` is false."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return asdict(self)


class Found(NamedTuple):
    """What one check found."""

    ok: bool
    detail: str


def examine(config: Config) -> list[Check]:
    """Check everything that a run with `config` needs. Never raises; every wait has a timeout."""
    checks: list[tuple[str, Callable[[Config], Found], str]] = [
        ("python", _python, "Make a new environment with Python 3.11, 3.12 or 3.13."),
        ("torch", _torch, "Install a build of torch for CUDA, or set num_gpus to 0 and trainer.device to auto."),
        ("own files", _own_files, "Install the versions of torchvision and timm that match the installed torch."),
        ("cuda in ray", _cuda_in_ray, "Set trainer.num_gpus and workers.num_gpus to the GPUs that Ray has, or to 0."),
        ("redis", _redis, "Fix what the message names, or unset queue.redis_url for an embedded server."),
        ("port", _port, "Choose another metrics.port, or 0 for a free one."),
        ("disk", _disk, "Set run.root to a writable folder with enough free space."),
        ("data", _data, "Set data.root to the folder with the files, or set data.download to true."),
        ("methods", _methods, "Fix what the message names, in the recipe or in the file of your own."),
        ("cores", _cores, "Use fewer workers, or lower workers.threads and trainer.threads."),
    ]
    return [_check(name, check, remedy, config) for name, check, remedy in checks]


def _check(name: str, check: Callable[[Config], Found], remedy: str, config: Config) -> Check:
    try:
        ok, detail = check(config)
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
    needs_cuda = _gpus(config) > 0 or config.trainer.device == "cuda"
    return Found(not needs_cuda or torch.version.cuda is not None, f"{torch.__version__}, {build} build")


def _own_files(config: Config) -> Found:
    """Import torchvision, and timm where it is installed, as a user's own file does: from a file, by name."""
    from sparring import plugins

    modules = ["torchvision.datasets", "torchvision.models", "torchvision.transforms.v2"]
    modules += ["timm"] if find_spec("timm") else []
    with TemporaryDirectory() as folder:
        file = Path(folder) / "own.py"
        file.write_text("".join(f"import {module}\n" for module in modules) + "names = globals()\n")
        names: Any = plugins.resolve("a file of one's own", f"{file}:names", {})
    versions = [f"{name} {names[name].__version__}" for name in ("torchvision", "timm") if name in names]
    return Found(True, f"a file of one's own can import {' and '.join(versions)}")


def _methods(config: Config) -> Found:
    """Build what the recipe names and try it on a few examples, files of the user's own included."""
    from sparring.commands.trials import try_methods
    from sparring.trainer.experiment import build_experiment

    experiment = build_experiment(config)
    try_methods(experiment)
    return Found(True, f"{config.model.name}: {experiment.method}")


def _gpus(config: Config) -> float:
    """Number of GPUs that Ray must have for the whole run."""
    return config.trainer.num_gpus + config.workers.count * config.workers.num_gpus


def _cuda_in_ray(config: Config) -> Found:
    """Check CUDA inside a Ray actor, because an actor may not see a GPU that the driver sees."""
    seen = _ask_actor(config)
    if "error" in seen:
        return Found(False, str(seen["error"]))
    requested, available = _gpus(config), float(seen["gpus"])
    detail = (
        f"torch.cuda.is_available() = {seen['available']} in an actor"
        + (f" on {seen['device']}" if seen["device"] else "")
        + f"; Ray has {available:g} GPUs, the run requests {requested:g}"
    )
    needs_cuda = requested > 0 or config.trainer.device == "cuda"
    enough = requested <= available or config.ray.address != "local"  # a cluster may still grow
    return Found(enough and (seen["available"] or not needs_cuda), detail)


def _ask_actor(config: Config) -> dict[str, Any]:
    """Run `look_inside_actor` in a subprocess, which can be killed when it hangs (its Ray ends with it)."""
    child = subprocess.Popen(
        [sys.executable, "-m", "sparring.commands.doctor"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        output, errors = child.communicate(config.model_dump_json(exclude_none=True), timeout=RAY_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait(10)
        raise SparringError(f"Ray did not start an actor within {RAY_TIMEOUT_S:.0f} s.") from None
    lines = output.strip().splitlines()
    if child.returncode != 0 or not lines:
        raise SparringError(f"Ray could not be started: {(errors.strip().splitlines() or ['it printed nothing'])[-1]}")
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer


def look_inside_actor(config: Config) -> dict[str, Any]:
    """Start Ray as a run does and read CUDA's state in an actor with the trainer's GPUs.

    If a local Ray has too few GPUs, the actor gets none, because otherwise it would wait for ever.

    Returns:
        `available`, `device` and `gpus`; or `error`.
    """
    import ray

    from sparring.engines.ray.cluster import ray_cluster

    logging.getLogger("ray").setLevel(logging.CRITICAL)
    try:
        with ray_cluster(config.ray, config.trainer.num_cpus):
            gpus = float(ray.cluster_resources().get("GPU", 0))
            reserved = config.trainer.num_gpus or min(config.workers.num_gpus, _gpus(config))
            possible = reserved <= gpus or config.ray.address != "local"
            options = {"num_cpus": config.trainer.num_cpus, "num_gpus": reserved if possible else 0}
            actor = ray.remote(_Actor).options(**options).remote()
            available, device = ray.get(actor.cuda.remote(), timeout=ACTOR_TIMEOUT_S)
            return {"available": available, "device": device, "gpus": gpus}
    except ray.exceptions.GetTimeoutError:
        return {"error": f"no actor with num_gpus = {reserved:g} answered within {ACTOR_TIMEOUT_S:.0f} s"}
    except (SparringError, ray.exceptions.RayError) as error:
        return {"error": str(error)}


class _Actor:
    """Reports CUDA's state from inside a Ray actor."""

    def cuda(self) -> tuple[bool, str]:
        import torch

        available = torch.cuda.is_available()
        return available, torch.cuda.get_device_name(0) if available else ""


def _redis(config: Config) -> Found:
    """Open the queue's server as a run does and read its state."""
    import redis

    quick = config.queue.model_copy(update={"timeout_s": min(config.queue.timeout_s, REDIS_TIMEOUT_S)})
    try:
        return _server(config.model_copy(update={"queue": quick}))
    except redis.RedisError as error:
        raise SparringError(f"queue.redis_url: the server there is not a usable Redis ({error}).") from error


def _server(config: Config) -> Found:
    from sparring.queue.connection import check_server, connect, describe, login_of
    from sparring.queue.opening import open_queue

    settings = config.queue
    if settings.redis_url is not None:  # checked first, with a shorter timeout than a run has
        with connect(settings.redis_url, login_of(settings, "trainer"), settings.timeout_s) as client:
            check_server(client, 0, settings.timeout_s)
    with (
        open_queue(config, *_sizes(config)) as queue,
        connect(queue.url, queue.logins["trainer"], settings.timeout_s) as client,
    ):
        info: dict[str, Any] = dict(client.info())
        product = f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {info['redis_version']}"
        where = "embedded" if queue.embedded else f"at {describe(client)}"
        memory = f"{int(info['maxmemory']) / 2**20:.0f} MiB" if int(info["maxmemory"]) else "unlimited"
        return Found(True, f"{product} {where}, {info['maxmemory_policy']}, maxmemory {memory}")


def _sizes(config: Config) -> tuple[tuple[int, int, int], int, bool]:
    """See `Experiment.queued`. Without data a single pixel, so that the server is still checked."""
    from sparring.trainer.experiment import build_experiment

    try:
        return build_experiment(config).queued
    except SparringError:
        return (1, 1, 1), 0, False


def _port(config: Config) -> Found:
    settings = config.metrics
    if not settings.enabled or not settings.port:
        return Found(True, "metrics.port: a free port is chosen" if settings.enabled else "metrics are off")
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
    """Name and id of the process that listens on `port`, if this system shows it."""
    try:
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    except OSError:
        return None
    sockets = {f"socket:[{row[9]}]" for row in rows if row[3] == LISTENING and int(row[1].split(":")[1], 16) == port}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(file) in sockets for file in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text().strip()} (process {process.name})"
        except OSError:  # the process has ended, or belongs to another user
            continue
    return None


def _disk(config: Config) -> Found:
    folder = config.run.root.expanduser().absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    writable = existing.is_dir() and os.access(existing, os.W_OK)
    detail = f"run.root = {config.run.root}: {free / 2**30:.1f} GiB free, {DISK_BYTES / 2**30:.0f} GiB are needed"
    return Found(free >= DISK_BYTES and writable, detail if writable else f"{detail}; {existing} is not writable")


def _data(config: Config) -> Found:
    from sparring.data import load, split_holdout
    from sparring.data.summary import summarise

    train, test = load(config.data, "train"), load(config.data, "test")
    training, heldout = split_holdout(train, config.data.holdout)
    found = summarise(f"data.name = {config.data.name!r}", training, test, heldout=len(heldout))
    return Found(True, " ".join((f"data.name = {config.data.name}: {found.line}.", *found.warnings)))


def _cores(config: Config) -> Found:
    """Too many threads make a run slow, not wrong: the check only reports them."""
    available, of_trainer = cores(), trainer_threads(config)
    if config.engine != "ray":
        return Found(True, f"{available} cores, {of_trainer} threads")
    of_worker = worker_threads(config.workers, config.trainer.count)
    used = config.workers.count * of_worker + of_trainer
    shared = f"; {used} threads share {available} cores, which may slow the run down" if used > available else ""
    where = "" if config.workers.num_gpus == 0 else " on GPUs"
    return Found(
        True,
        f"{available} cores; workers{where}: {config.workers.count}, threads of each: {of_worker}, of the trainer: "
        f"{of_trainer}{shared}",
    )


if __name__ == "__main__":
    sys.stdout.write(json.dumps(look_inside_actor(from_tree(json.load(sys.stdin)))) + "\n")
