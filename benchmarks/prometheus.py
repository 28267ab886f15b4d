"""A real Prometheus with the configuration and the alert rules of deploy/prometheus, for tests and pictures."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

SHIPPED = Path(__file__).parents[1] / "deploy" / "prometheus"
SHIPPED_TARGETS, SHIPPED_INTERVAL = "/var/lib/sparring/targets", "5s"
START_S = 30.0
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Prometheus:
    """Scrapes the runs that name themselves in `targets`, every second, while the context is open.

    The shipped configuration is taken as it is, but for that folder and the intervals.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.targets = folder, folder / "targets"
        self.url = ""
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Prometheus:
        self.targets.mkdir(parents=True)
        shipped = (SHIPPED / "prometheus.yml").read_text()
        assert SHIPPED_TARGETS in shipped and SHIPPED_INTERVAL in shipped
        changed = shipped.replace(SHIPPED_TARGETS, str(self.targets)).replace(SHIPPED_INTERVAL, "1s")
        (self.folder / "prometheus.yml").write_text(changed)
        shutil.copy(SHIPPED / "alerts.yml", self.folder)
        for _ in range(5):
            if self._start(_free_port()):
                return self
        raise RuntimeError(f"Prometheus did not start; see {self.folder / 'log'}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=START_S)

    def _start(self, port: int) -> bool:
        """False: it has ended, since somebody else took the port first."""
        self.url = f"http://127.0.0.1:{port}"
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={self.folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={self.folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdout=log,
                stderr=log,
            )
        limit = time.monotonic() + START_S
        while time.monotonic() < limit and self._process.poll() is None:
            if self._is_ready():
                return True
            time.sleep(0.05)
        self._process.kill()
        self._process.wait()
        return False

    def _is_ready(self) -> bool:
        try:
            with _DIRECT.open(f"{self.url}/-/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def ask(self, path: str, **parameters: object) -> Any:
        """The data of an answer of its HTTP API.

        Raises:
            ValueError: it refuses, a query that does not parse, say.
        """
        query = urllib.parse.urlencode({name: str(value) for name, value in parameters.items()}, doseq=True)
        try:
            with _DIRECT.open(f"{self.url}/api/v1/{path}?{query}", timeout=START_S) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(f"{path} {parameters}: {error.read().decode()}") from error

    def now(self, query: str) -> list[dict[str, Any]]:
        """The series of an instant query: `metric` with the labels, `value` with time and value."""
        series: list[dict[str, Any]] = self.ask("query", query=query)["result"]
        return series

    def over(self, query: str, start: float, end: float, step_s: float = 1.0) -> list[dict[str, Any]]:
        """The series of a query between two Unix times: `metric` with the labels, `values` with times and values."""
        found: list[dict[str, Any]] = self.ask("query_range", query=query, start=start, end=end, step=step_s)["result"]
        return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
