"""A server behind a line of so many bytes a second each way, as a network's would be."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CHUNK_BYTES = 1 << 16


class Line:
    """One direction: whoever sends waits until all before it has gone."""

    def __init__(self, bytes_per_s: float) -> None:
        self.bytes_per_s, self.free_at = bytes_per_s, 0.0

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(CHUNK_BYTES):
                self.free_at = max(self.free_at, time.monotonic()) + len(chunk) / self.bytes_per_s
                await asyncio.sleep(self.free_at - time.monotonic())
                writer.write(chunk)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


async def _serve(target: int, bytes_per_s: float, told: Any) -> None:
    into, out_of = Line(bytes_per_s), Line(bytes_per_s)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", target)
        await asyncio.gather(into.carry(reader, server_writer), out_of.carry(server_reader, writer))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    told.put(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def _run(target: int, bytes_per_s: float, told: Any) -> None:
    asyncio.run(_serve(target, bytes_per_s, told))


@contextmanager
def paced(port: int, bytes_per_s: float) -> Iterator[int]:
    """The port at which a local server is then reached, in a process of its own."""
    context = multiprocessing.get_context("fork")
    told: Any = context.Queue()
    process = context.Process(target=_run, args=(port, bytes_per_s, told), daemon=True)
    process.start()
    try:
        yield told.get(timeout=30)
    finally:
        process.terminate()
        process.join(timeout=10)
