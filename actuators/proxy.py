"""The TCP fault proxy: a dependency edge that can be made slow.

A process of its own in the data path of a platform's dependency edges. It forwards bytes untouched until it is told,
over a Unix socket, to hold them back; every fault in it carries its own deadline, so that an edge heals by itself even
when nobody is left to heal it.

    python -m actuators.proxy --control SOCKET --route NAME=LISTEN_PORT:UPSTREAM_PORT [--route ...]

Listen port 0 takes any free port. The first line on stdout is `{"routes": {NAME: LISTEN_PORT}}`.

The control protocol is one JSON object per line, one answer per request:

    {"verb": "delay", "id": ID, "route": NAME, "delay_ms": MS, "boot_id": BOOT, "boottime_s": DEADLINE}
    {"verb": "clear", "id": ID}
    {"verb": "list"}                       -> {"faults": [{"id", "route", "delay_ms", "held_back"}], "routes": {...}}

Verbs are absolute ("hold this route's bytes back by 200 ms", never "200 ms more") and idempotent. `clear` of an unknown
id succeeds. Where several faults meet on one route, the longest delay counts.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .clock import BootClock, Clock, Instant

_CHUNK_BYTES = 64 * 1024
_CHUNKS_IN_FLIGHT = 256
"""Chunks a delayed connection may hold before the sender feels it; bounds the proxy's memory."""


@dataclass(slots=True)
class Delay:
    """Bytes towards one route's upstream are held back until the deadline."""

    id: str
    route: str
    delay_ms: float
    expires_at: Instant
    held_back: int = 0


class FaultTable:
    """The faults in force, each with its own time to live."""

    def __init__(self, routes: Mapping[str, int], clock: Clock) -> None:
        self._routes = routes
        self._clock = clock
        self._faults: dict[str, Delay] = {}

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Carries out one control request and returns its answer."""
        verb = request.get("verb")
        if verb == "delay":
            return self._set_delay(request)
        if verb == "clear":
            self._faults.pop(str(request["id"]), None)
            return {"ok": True}
        if verb == "list":
            return {"ok": True, "routes": dict(self._routes), "faults": [_described(fault) for fault in self._live()]}
        return {"ok": False, "error": f"unknown verb {verb!r}; known are delay, clear, list"}

    def delay_s(self, route: str) -> float:
        """Returns by how many seconds bytes on `route` are held back now, and counts that they were."""
        delays = [fault for fault in self._live() if fault.route == route]
        for fault in delays:
            fault.held_back += 1
        return max((fault.delay_ms for fault in delays), default=0.0) / 1000.0

    def _set_delay(self, request: Mapping[str, Any]) -> dict[str, Any]:
        route = str(request["route"])
        if route not in self._routes:
            return {"ok": False, "error": f"unknown route {route!r}; known are {', '.join(self._routes)}"}
        deadline = Instant(str(request["boot_id"]), float(request["boottime_s"]))
        fault = Delay(str(request["id"]), route, float(request["delay_ms"]), deadline)
        known = self._faults.get(fault.id)
        if known is not None:
            fault.held_back = known.held_back
        self._faults[fault.id] = fault
        return {"ok": True}

    def _live(self) -> list[Delay]:
        now = self._clock.now()
        for fault in [fault for fault in self._faults.values() if fault.expires_at.reached(now)]:
            del self._faults[fault.id]
        return list(self._faults.values())


def _described(fault: Delay) -> dict[str, Any]:
    return {"id": fault.id, "route": fault.route, "delay_ms": fault.delay_ms, "held_back": fault.held_back}


class Route:
    """One listening port, forwarded to one upstream port on loopback."""

    def __init__(self, name: str, upstream_port: int, faults: FaultTable) -> None:
        self._name = name
        self._upstream_port = upstream_port
        self._faults = faults

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forwards one connection until both ends have closed it, or one of them broke it."""
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        except OSError:
            # The dependency is down: reset, as its own kernel would, instead of a polite end of stream.
            writer.transport.abort()
            return
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump_delayed(reader, upstream_writer))
                pumps.create_task(_pump(upstream_reader, writer))
        except* OSError:
            writer.transport.abort()
            upstream_writer.transport.abort()
        finally:
            writer.close()
            upstream_writer.close()

    async def _pump_delayed(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forwards bytes in order, each chunk when its delay is over."""
        loop = asyncio.get_running_loop()
        chunks: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_CHUNKS_IN_FLIGHT)

        async def release() -> None:
            while True:
                due, chunk = await chunks.get()
                await asyncio.sleep(max(0.0, due - loop.time()))
                if not chunk:
                    return writer.write_eof()
                writer.write(chunk)
                await writer.drain()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(release())
            while chunk := await reader.read(_CHUNK_BYTES):
                await chunks.put((loop.time() + self._faults.delay_s(self._name), chunk))
            await chunks.put((loop.time() + self._faults.delay_s(self._name), b""))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(_CHUNK_BYTES):
        writer.write(chunk)
        await writer.drain()
    writer.write_eof()


async def _control(faults: FaultTable, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        try:
            answer = faults.answer(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
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
