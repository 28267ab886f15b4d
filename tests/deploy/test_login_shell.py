"""In the image a login shell finds Ray and Sparring: Ray's autoscaler runs every command of a container in one.

No image is built: the Dockerfile's own line writes the profile, and bash reads it in a mount namespace whose
/etc/profile.d and /opt are the test's.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMANDS = ("ray", "sparring", "python")
NAMESPACE = ("unshare", "--mount")
# What the image's ENV and USER give to the process that starts the shell.
START = "setpriv --reuid=1000 --regid=1000 --clear-groups env -i PATH=/opt/sparring/venv/bin:/usr/bin:/bin HOME=/"


def _permitted() -> bool:
    if shutil.which("unshare") is None or shutil.which("setpriv") is None:
        return False
    done = subprocess.run([*NAMESPACE, "mount", "-t", "tmpfs", "none", "/opt"], capture_output=True)
    return done.returncode == 0 and Path("/etc/debian_version").exists()


pytestmark = pytest.mark.skipif(not _permitted(), reason="needs Debian's /etc/profile and the right to mount")


def dockerfile_line() -> str:
    """The command of the Dockerfile that writes the profile."""
    (line,) = re.findall(r"&& (echo .* >/etc/profile\.d/\S+)", (ROOT / "Dockerfile").read_text())
    return str(line)


def found_in_login_shell(prepare: str) -> list[str]:
    """Where the shell that Ray's autoscaler uses finds COMMANDS, after `prepare` has run in an empty /etc/profile.d."""
    names = " ".join(COMMANDS)
    script = f"""
    set -e
    mount -t tmpfs -o mode=755 none /etc/profile.d
    mount -t tmpfs -o mode=755 none /opt
    mkdir -p /opt/sparring/venv/bin
    cd /opt/sparring/venv/bin
    for name in {names}; do printf '#!/bin/sh\\n' >$name; chmod 755 $name; done
    umask 022
    {prepare}
    cd /
    {START} bash --login -c -i {shlex.quote(f"for name in {names}; do command -v $name; done; true")}
    """
    done = subprocess.run(
        [*NAMESPACE, "bash", "-c", script], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith("/opt/")]


def test_a_login_shell_without_root_finds_ray_and_sparring() -> None:
    assert found_in_login_shell(dockerfile_line()) == [f"/opt/sparring/venv/bin/{name}" for name in COMMANDS]


def test_without_the_profile_it_finds_neither() -> None:
    assert found_in_login_shell(":") == []
