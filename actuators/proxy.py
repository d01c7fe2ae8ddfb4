"""The TCP fault proxy: a dependency edge that can be made slow, lossy, narrow or dead.

A process of its own in the data path of a platform's dependency edges. It forwards bytes untouched until it is told,
over a Unix socket, to impair a route; every fault in it carries its own deadline, so that an edge heals by itself even
when nobody is left to heal it.

    python -m actuators.proxy --control SOCKET --route NAME=LISTEN_PORT:UPSTREAM_PORT [--route ...]

Listen port 0 takes any free port. The first line on stdout is `{"routes": {NAME: LISTEN_PORT}}`.

The control protocol is one JSON object per line, one answer per request:

    {"verb": "impair", "id": ID, "route": NAME, "effect": EFFECT, "amount": AMOUNT,
     "boot_id": BOOT, "boottime_s": DEADLINE}
    {"verb": "clear", "id": ID}
    {"verb": "list"}                -> {"faults": [{"id", "route", "effect", "amount", "affected"}], "routes": {...}}

Effects, on bytes towards the upstream unless it says otherwise:

    delay      every chunk is held back by so many ms, and up to a tenth more
    loss       so large a share of the chunks resets its connection instead of passing
    partition  nothing passes in either direction, and connections are accepted but lead nowhere
    bandwidth  chunks pass one after the other at so many bytes/s, all connections together

Effects on rows, one JSON object per line (`actuators.rows`), on a route on which such lines go to the upstream:

    corrupt_rows   so large a share of the rows has values that cannot be
    schema_change  so large a share of a row's fields is called otherwise
    drift          all values are larger by so much
    stream_delay   all rows of one partition, the first that is met, are held back by so many seconds, and with them
                   whatever comes after them on their connection

`affected` counts what was felt: rows changed or held; chunks delayed, kept from passing or made to wait; connections
reset. Verbs are absolute ("hold this route's bytes back by 200 ms", never "200 ms more") and idempotent. `clear` of an
unknown id succeeds. Where several faults meet on one route, each of them holds; the longest wait counts.

When a fault ends, whatever waits because of it passes at once. What a partition has kept from passing is lost, and its
connections are reset: the callers have long given up, and nobody should have to answer them all in one moment.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Mapping
from pathlib import Path

from .clock import BootClock, Clock
from .errors import BadInput
from .fault_table import FaultTable, InForce
from .rows import LineCutter

_CHUNK_BYTES = 64 * 1024
_CHUNKS_IN_FLIGHT = 256
"""Chunks a delayed connection may hold before the sender feels it; bounds the proxy's memory."""

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Route:
    """One listening port, forwarded to one upstream port on loopback."""

    def __init__(self, name: str, upstream_port: int, faults: FaultTable) -> None:
        self._name = name
        self._upstream_port = upstream_port
        self._faults = faults

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forwards one connection until both ends have closed it, or one of them broke it."""
        try:
            await self._faults.pass_cut(self._name)
            upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        except OSError:
            # The dependency is down: reset, as its own kernel would, instead of a polite end of stream.
            _reset(writer)
            return
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump_requests(reader, upstream_writer))
                pumps.create_task(self._pump_answers(upstream_reader, writer))
        except* OSError:
            _reset(writer)
            _reset(upstream_writer)
        finally:
            writer.close()
            upstream_writer.close()

    async def _pump_requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forwards bytes in order, each chunk when all that it met lets it pass."""
        chunks: asyncio.Queue[tuple[bytes, list[tuple[InForce, float]]]] = asyncio.Queue(_CHUNKS_IN_FLIGHT)

        async def release() -> None:
            while True:
                chunk, holds = await chunks.get()
                for fault, loop_s in holds:
                    await fault.wait_until(loop_s)
                await self._faults.pass_cut(self._name)
                if not chunk:
                    return writer.write_eof()
                writer.write(chunk)
                await writer.drain()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(release())
            cutter = LineCutter()
            while chunk := await reader.read(_CHUNK_BYTES):
                passing, holds = self._faults.meet_rows(self._name, chunk, cutter)
                if passing:
                    await chunks.put((passing, holds + self._faults.meet(self._name, len(passing))))
            if rest := cutter.raw(b""):
                await chunks.put((rest, self._faults.meet(self._name, len(rest))))
            await chunks.put((b"", self._faults.meet(self._name, 0)))

    async def _pump_answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forwards bytes as they come; only a partition keeps answers from passing."""
        while chunk := await reader.read(_CHUNK_BYTES):
            await self._faults.pass_cut(self._name)
            writer.write(chunk)
            await writer.drain()
        await self._faults.pass_cut(self._name)
        writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Breaks a connection with a RST; a mere abort would end it politely wherever nothing is left unread."""
    with contextlib.suppress(OSError):  # it is closed already
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()


async def _control(faults: FaultTable, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        try:
            answer = faults.answer(json.loads(line))
        except (BadInput, ValueError, KeyError, TypeError) as error:
            answer = {"ok": False, "error": f"unusable request: {error!r}"}
        writer.write(json.dumps(answer).encode() + b"\n")
        await writer.drain()
    writer.close()


async def serve(control: Path, routes: Mapping[str, tuple[int, int]], clock: Clock) -> None:
    """Runs the proxy until it is cancelled.

    Args:
        control: path of the Unix socket to listen on; its folder decides who may ask.
        routes: listening port (0: any free one) and upstream port of each route.
        clock: what the faults' deadlines are read against.
    """
    ports: dict[str, int] = {}
    faults = FaultTable(ports, clock)
    async with contextlib.AsyncExitStack() as servers:
        for name, (listen_port, upstream_port) in routes.items():
            route = Route(name, upstream_port, faults)
            server = await servers.enter_async_context(
                await asyncio.start_server(route.serve, "127.0.0.1", listen_port)
            )
            ports[name] = server.sockets[0].getsockname()[1]
        await servers.enter_async_context(
            await asyncio.start_unix_server(lambda r, w: _control(faults, r, w), path=control)
        )
        print(json.dumps({"routes": ports}), flush=True)  # noqa: T201 (the handshake with whoever started us)
        await asyncio.Event().wait()


def _parsed_route(text: str) -> tuple[str, tuple[int, int]]:
    name, _, ports = text.partition("=")
    listen_port, _, upstream_port = ports.partition(":")
    return name, (int(listen_port), int(upstream_port))


def main() -> None:
    """Reads the command line and serves until killed."""
    parser = argparse.ArgumentParser(prog="python -m actuators.proxy", description="TCP fault proxy")
    parser.add_argument("--control", type=Path, required=True, help="path of the Unix control socket")
    parser.add_argument("--route", type=_parsed_route, action="append", default=[], help="NAME=LISTEN:UPSTREAM")
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.control, dict(arguments.route), BootClock()))


if __name__ == "__main__":
    main()
