"""On which addresses this process and its descendants listen (Linux)."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path

LISTENING = "0A"


def listeners_of_children() -> list[tuple[str, int]]:
    """Address and port of each listening TCP socket of this process and of all processes that descend from it."""
    inodes = {inode for pid in _family(os.getpid()) for inode in _sockets(pid)}
    return sorted(place for inode, place in _listening() if inode in inodes)


def _family(root: int) -> set[int]:
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
    family = {root}
    while grown := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= grown
    return family


def _sockets(pid: int) -> set[str]:
    found = set()
    for handle in Path(f"/proc/{pid}/fd").glob("*"):
        try:
            target = os.readlink(handle)
        except OSError:
            continue
        if target.startswith("socket:["):
            found.add(target[len("socket:[") : -1])
    return found


def _listening() -> list[tuple[str, tuple[str, int]]]:
    rows = []
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENING:
                address, _, port = fields[1].partition(":")
                rows.append((fields[9], (_address(address), int(port, 16))))
    return rows


def _address(text: str) -> str:
    """The kernel prints words of 32 bits in the host's order."""
    words = [bytes.fromhex(text[at : at + 8])[::-1] for at in range(0, len(text), 8)]
    packed = b"".join(words)
    found = ipaddress.ip_address(packed)
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return str(found) if mapped is None else f"::ffff:{mapped}"
