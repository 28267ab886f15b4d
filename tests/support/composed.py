"""The services of docker-compose.yml on the caller's Docker Engine, under a project name and with secrets of their own.

The image is tagged as the test's, and ports are any that are free: what else is composed there goes on.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
HOME = str(
    Path.home()
)  # of the caller, before the tests have one of their own: plugins and contexts of docker lie there
IMAGE = "sparring:compose-test"
OVERRIDES = (2, 24, 4)  # the Compose that knows !override
BUILD_TIMEOUT_S, START_TIMEOUT_S, STOP_TIMEOUT_S = 1800.0, 300.0, 180.0
FILE = f"""
services:
  head: {{image: "{IMAGE}", ports: !override ["127.0.0.1::8265"]}}
  worker: {{image: "{IMAGE}"}}
  prometheus: {{ports: !override ["127.0.0.1::9090"]}}
  grafana: {{ports: !override ["127.0.0.1::3000"]}}
secrets:
  redis_password: {{file: "@/redis_password"}}
  ray_token: {{file: "@/ray_token"}}
  grafana_password: {{file: "@/grafana_password"}}
"""


def missing() -> str | None:
    """Why nothing can be composed here, or None."""
    if shutil.which("docker") is None:
        return "needs docker (on Debian: apt install docker.io) and its plugin Compose"
    told = _docker("compose", "version", "--short")
    version = re.match(r"v?(\d+)\.(\d+)\.(\d+)", told.stdout)
    needed = ".".join(map(str, OVERRIDES))
    if told.returncode != 0 or version is None:
        return f"needs Docker Compose {needed} or newer, docker's plugin (Docker's package docker-compose-plugin)"
    if tuple(map(int, version.groups())) < OVERRIDES:
        return f"needs Docker Compose {needed} or newer; this is {told.stdout.strip()}"
    asked = _docker("info")
    return (
        None if asked.returncode == 0 else f"needs a Docker Engine that answers (DOCKER_HOST): {asked.stderr.strip()}"
    )


class Composed:
    """The project's services.

    Args:
        folder: holds the override file and the secrets. settings: SPARRING_SETTINGS.
    """

    def __init__(self, folder: Path, settings: str) -> None:
        self.project = f"sparring-test-{secrets.token_hex(4)}"
        self.folder, self.settings = folder, settings
        (folder / "override.yml").write_text(FILE.replace("@", str(folder)))
        for name in ("redis_password", "ray_token", "grafana_password"):
            (folder / name).write_text(secrets.token_hex(32))
            (folder / name).chmod(0o644)  # read by the users of the containers
        self.grafana = _is_there(_image_of("grafana"))

    def __call__(self, *words: str, timeout_s: float = STOP_TIMEOUT_S, **environment: str) -> str:
        """`docker compose` with these words; its output.

        Raises:
            AssertionError: it failed, with its output.
        """
        files = ["--file", str(ROOT / "docker-compose.yml"), "--file", str(self.folder / "override.yml")]
        values = {"SPARRING_SETTINGS": self.settings, **environment}
        done = _docker("compose", "--project-name", self.project, *files, *words, timeout_s=timeout_s, **values)
        assert done.returncode == 0, f"docker compose {words} failed:\n{(done.stdout + done.stderr)[-5000:]}"
        return done.stdout

    def build(self) -> None:
        """The image; TORCH_INDEX of the environment goes into it."""
        self("build", "head", timeout_s=BUILD_TIMEOUT_S)

    def up(self, workers: int, *more: str, **environment: str) -> None:
        """`docker compose up` with more options; without Grafana if its image cannot be had."""
        services = ["head", "worker", "prometheus", *(["grafana"] if self.grafana else [])]
        options = ["--detach", "--no-build", "--scale", f"worker={workers}", *more]
        self("up", *options, *services, timeout_s=START_TIMEOUT_S, **environment)

    def shell(self, command: str, service: str = "head", *options: str) -> str:
        """What a shell in the service's container prints."""
        return self("exec", "--no-TTY", *options, service, "sh", "-c", command)

    def states(self, service: str) -> list[str]:
        """Of each of its containers: running, exited or another of docker's words."""
        chosen = [f"label=com.docker.compose.project={self.project}", f"label=com.docker.compose.service={service}"]
        return _lines("ps", "--all", *(f"--filter={label}" for label in chosen), "--format", "{{.State}}")

    def exit_code(self, service: str) -> int:
        """Of its one container, which has ended."""
        (container,) = self("ps", "--all", "--quiet", service).split()
        (code,) = _lines("inspect", "--format", "{{.State.ExitCode}}", container)
        return int(code)

    def kill(self, container: str) -> None:
        """As kill -9 does; `container`: its name, or the beginning of its number, which is its host name."""
        _lines("kill", "--signal", "KILL", container)

    def copied(self, path: str, folder: Path) -> Path:
        """A folder of the head's volumes, copied into `folder`; the head may have ended."""
        self("cp", f"head:{path}", str(folder))
        return folder / Path(path).name

    def prometheus(self, path: str, **query: str) -> Any:
        """What Prometheus' API answers, under api/v1."""
        return self.get("prometheus", 9090, f"api/v1/{path}?{urllib.parse.urlencode(query)}")["data"]

    def get(self, service: str, port: int, path: str) -> Any:
        """The JSON that a service serves."""
        address = self("port", service, str(port)).strip()
        with urllib.request.urlopen(f"http://{address}/{path}", timeout=10) as answer:
            return json.load(answer)

    def left(self) -> list[str]:
        """Containers, volumes and networks of the project, and the image."""
        mine = f"--filter=label=com.docker.compose.project={self.project}"
        kinds = (("ps", "--all", mine), ("volume", "ls", mine), ("network", "ls", mine), ("image", "ls", IMAGE))
        return [line for kind in kinds for line in _lines(*kind, "--quiet")]


@contextmanager
def composed(folder: Path, settings: str) -> Iterator[Composed]:
    """Nothing is started yet. At the end all is removed, the image too: the build's cache soon makes another."""
    services = Composed(folder, settings)
    try:
        yield services
    finally:
        print(services("logs", "--no-color", "--tail", "30"))  # noqa: T201  pytest shows it where a test has failed
        services("down", "--volumes", "--timeout", "30")
        _docker("image", "rm", IMAGE)


def _image_of(service: str) -> str:
    return str(yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"][service]["image"])


def _is_there(image: str) -> bool:
    present = _docker("image", "inspect", image).returncode == 0
    return present or _docker("pull", "--quiet", image, timeout_s=START_TIMEOUT_S).returncode == 0


def _lines(*words: str) -> list[str]:
    done = _docker(*words)
    assert done.returncode == 0, f"docker {words} failed:\n{done.stderr}"
    return done.stdout.split()


def _docker(*words: str, timeout_s: float = 60.0, **environment: str) -> subprocess.CompletedProcess[str]:
    values = {**os.environ, "HOME": HOME, **environment}
    return subprocess.run(
        ["docker", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, env=values
    )
