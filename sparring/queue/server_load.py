"""Measure what a server's processor spends on a ticket and on a payload: python -m sparring.queue.server_load BYTES

Printed are two numbers of seconds: of all scripts that a ticket needs from its issue until its shard is received, and
of one SET and one GET of so many bytes. A server has one thread for commands, so that one over their sum is what it
carries a second.
"""

from __future__ import annotations

import sys
from typing import Any

import torch

from sparring.attacks import PGD
from sparring.errors import SparringError
from sparring.queue.connection import connect
from sparring.queue.messages import Key, Lease, Shard, Ticket
from sparring.queue.round_trip import print_measured
from sparring.queue.server import EmbeddedServer
from sparring.queue.sizing import MEMORY_SLACK_BYTES
from sparring.queue.transport import Transport

TICKETS, REPETITIONS, TIMEOUT_S = 500, 50, 10.0


def ticket_s(server: EmbeddedServer) -> float:
    """Processor time of the server for one ticket whose payload is next to nothing."""
    transport = Transport(connect(server.url, server.password, TIMEOUT_S), "load", lease_s=60.0, timeout_s=TIMEOUT_S)
    transport.open(1)
    before = _processor_s(server)
    for number in range(TICKETS):
        transport.issue([Ticket(Key(0, number, 0), 1, 0, (0,), "load")])
        lease = transport.lease("worker", 0.0)
        if not isinstance(lease, Lease):
            raise SparringError(f"no ticket came back from the server at port {server.port}: {lease!r}")
        delta, labels = torch.zeros(1, 1, 1, 1), torch.zeros(1, dtype=torch.int64)
        shard = Shard(lease.ticket.key, 1, 0, 0, PGD(0.1).record, delta, labels, "worker")
        transport.renew(lease)
        transport.commit(lease, shard)
        transport.receive(TIMEOUT_S)
    spent = _processor_s(server) - before
    transport.close()
    return spent / TICKETS


def payload_s(server: EmbeddedServer, size_bytes: int) -> float:
    """Processor time of the server for one SET and one GET."""
    payload, before = bytes(size_bytes), _processor_s(server)
    with server.client() as client:
        for _ in range(REPETITIONS):
            client.set("payload", payload)
            client.get("payload")
    return (_processor_s(server) - before) / REPETITIONS


def _processor_s(server: EmbeddedServer) -> float:
    with server.client() as client:
        info: dict[str, Any] = dict(client.info("cpu"))
    return float(info["used_cpu_sys"]) + float(info["used_cpu_user"])


def measured(size_bytes: int) -> tuple[float, float]:
    """Both, with a server of its own.

    Raises:
        SparringError: none can be started.
    """
    with EmbeddedServer(maxmemory=MEMORY_SLACK_BYTES + 4 * size_bytes) as server:
        return ticket_s(server), payload_s(server, size_bytes)


def main() -> None:
    """Print both on standard output; exit with 1 if no server can be started."""
    print_measured(lambda: measured(int(sys.argv[1])))


if __name__ == "__main__":
    main()
