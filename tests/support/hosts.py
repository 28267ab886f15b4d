"""Two hosts made of namespaces, and the machine that an operator sits at: all of them gone when the test ends."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "tests" / "cluster"
HOME = "/mnt/home"
HEAD, WORKER = "10.77.0.2", "10.77.0.3"
NAMESPACES = ("--net", "--pid", "--mount", "--uts", "--ipc")
TOOLS = ("unshare", "nsenter", "setpriv", "ip", "ssh", "ssh-keygen", "rsync")
SSHD = Path("/usr/sbin/sshd")
START_S = 30.0

SSHD_CONFIG = f"""
HostKey {HOME}/host_key
AuthorizedKeysFile /mnt/work/operator/.ssh/id_ed25519.pub
PermitRootLogin yes
StrictModes no
UsePAM no
PidFile none
"""
RAY_COMMAND = f"""#!{HOME}/sparring/venv/bin/python
from ray.scripts.scripts import main
main()
"""
# The environment that install.sh makes, except that torch and Ray are those of the tests: nothing large is downloaded.
PREPARE = f"""
set -e
mount -t tmpfs tmpfs /mnt
mkdir /mnt/home /mnt/site
mount --bind "$1" {HOME}
mount --bind "$2" /mnt/site
"$3" -m venv {HOME}/sparring/venv
echo /mnt/site >{HOME}/sparring/venv/lib/python3.11/site-packages/of-the-tests.pth
HOME={HOME} bash {HOME}/sparring/ray/install.sh
"""


PACKAGES = {
    "ip": "iproute2",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    str(SSHD): "openssh-server",
}


def missing() -> str | None:
    """Why no such hosts can be made here, or None."""
    if os.geteuid() != 0:
        return "needs root: it makes network, PID and mount namespaces"
    absent = [tool for tool in TOOLS if shutil.which(tool) is None] + ([] if SSHD.exists() else [str(SSHD)])
    if absent:
        packages = sorted({PACKAGES.get(tool, tool) for tool in absent})
        return f"needs {', '.join(absent)} (on Debian: apt install {' '.join(packages)})"
    tried = subprocess.run(["unshare", *NAMESPACES, "--fork", "--mount-proc", "true"], capture_output=True)
    return None if tried.returncode == 0 else f"namespaces are not permitted: {tried.stderr.decode().strip()}"


class Hosts:
    """Namespaces that run; `init` is the process 1 of the operator's, as it is numbered out here."""

    def __init__(self, work: Path, init: int) -> None:
        self.work, self.init = work, init

    def home(self, name: str) -> Path:
        """The home of operator, head or worker, as it is seen out here."""
        return self.work / name

    def run(self, *command: str, timeout_s: float = 120.0) -> str:
        """Run it where the operator sits; its output and errors together.

        Raises:
            AssertionError: it failed, with its output.
        """
        environment = {
            "HOME": HOME,
            "PATH": f"{HOME}/sparring/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "RAY_UP_enable_autoscaler_v2": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "TERM": "dumb",
        }
        enter = ["nsenter", "--target", str(self.init), *NAMESPACES, "env", "-i", "-C", HOME]
        done = subprocess.run(
            [*enter, *(f"{name}={value}" for name, value in environment.items()), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
        )
        assert done.returncode == 0, f"{command} failed:\n{done.stdout[-5000:]}"
        return done.stdout

    def on(self, address: str, command: str) -> str:
        """Run it in a shell on one of the hosts, over SSH."""
        options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
        return self.run("ssh", *options, f"root@{address}", command)


def prepare(work: Path) -> None:
    """Homes, keys and what the operator has of the repository: the wheel, the recipes, the cluster's file."""
    for name in ("operator", "head", "worker"):
        (work / name / "sparring" / "venv").mkdir(parents=True)
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(work / name / "host_key"))
    home = work / "operator"
    (home / ".ssh").mkdir(mode=0o700)
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(home / ".ssh" / "id_ed25519"))
    (home / ".ray").mkdir(mode=0o700)
    (home / ".ray" / "auth_token").write_text(secrets.token_hex(32))
    (home / ".ray" / "auth_token").chmod(0o600)
    (home / "sshd_config").write_text(SSHD_CONFIG)
    for script in ("operator.sh", "host.sh"):
        shutil.copy(SCRIPTS / script, home)
    checkout = home / "checkout"
    shutil.copytree(ROOT / "recipes", checkout / "recipes")
    shutil.copytree(ROOT / "deploy" / "ray", checkout / "deploy" / "ray")
    shutil.copy(ROOT / "constraints.txt", checkout)
    wheel(checkout / "dist")
    _install(home, checkout)


def wheel(folder: Path) -> None:
    """The package as `make wheel` builds it."""
    source = folder.parent / "source"
    shutil.copytree(ROOT / "sparring", source / "sparring", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation"]
    _run(sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", str(folder), str(source))
    shutil.rmtree(source)


def _install(home: Path, checkout: Path) -> None:
    """`~/sparring` of the operator, whose environment the hosts share: install.sh finds it complete there."""
    shutil.copytree(checkout / "dist", home / "sparring" / "dist")
    shutil.copytree(checkout / "deploy" / "ray", home / "sparring" / "ray")
    shutil.copy(checkout / "constraints.txt", home / "sparring")
    site = sysconfig.get_path("purelib")
    _run("unshare", "--mount", "bash", "-c", PREPARE, "prepare", str(home), site, sys._base_executable)  # type: ignore[attr-defined]
    command = home / "sparring" / "venv" / "bin" / "ray"
    command.write_text(RAY_COMMAND)
    command.chmod(0o755)


@contextmanager
def hosts(work: Path) -> Iterator[Hosts]:
    """Start them in a folder that `prepare` filled; every process in them dies with this context."""
    (work / "ready").unlink(missing_ok=True)
    operator = ["bash", str(work / "operator" / "operator.sh"), str(work), sysconfig.get_path("purelib")]
    with (work / "operator.log").open("w") as log:
        # The kernel kills `unshare` when the test dies, and that kills process 1 of the namespaces.
        process = subprocess.Popen(
            [
                "setpriv",
                "--pdeathsig",
                "KILL",
                "unshare",
                *NAMESPACES,
                "--fork",
                "--mount-proc",
                "--kill-child",
                *operator,
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        limit = time.monotonic() + START_S
        while not (work / "ready").exists():
            said = f"the hosts are not there: {(work / 'operator.log').read_text()}"
            assert process.poll() is None and time.monotonic() < limit, said
            time.sleep(0.05)
        yield Hosts(work, _child_of(process.pid))
    finally:
        process.kill()
        process.wait()


def _child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def _run(*command: str) -> None:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, f"{command[0]} failed:\n{done.stdout[-5000:]}"
