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

    delay      every chunk is held back by so many ms
    loss       so large a share of the chunks resets its connection instead of passing
    partition  nothing passes in either direction, and connections are accepted but lead nowhere
    bandwidth  chunks pass one after the other at so many bytes/s, all connections together

`affected` counts what was felt: chunks delayed, kept from passing or made to wait, and connections reset. Verbs are
absolute ("hold this route's bytes back by 200 ms", never "200 ms more") and idempotent. `clear` of an unknown id
succeeds. Where several faults meet on one route, each of them holds; the longest wait counts.

When a fault ends, whatever waits because of it passes at once. What a partition has kept from passing is lost, and its
connections are reset: the callers have long given up, and nobody should have to answer them all in one moment.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .clock import BootClock, Clock, Instant
from .errors import BadInput
from .network import Effect, Impairment

_CHUNK_BYTES = 64 * 1024
_CHUNKS_IN_FLIGHT = 256
"""Chunks a delayed connection may hold before the sender feels it; bounds the proxy's memory."""

_LOOK_AGAIN_S = 1.0
"""Longest time between two looks at the deadlines: timers stand still while a machine sleeps, deadlines do not."""

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(slots=True)
class InForce:
    """An impairment of one route, until its deadline.

    Attributes:
        id: of the injection.
        route: whose bytes it meets.
        impairment: what is done to them.
        expires_at: when it ends by itself.
        draws: decides which messages are lost; named from the injection, so that a repetition loses the same ones.
        affected: how often it was felt.
        free_at_s: loop time at which a narrow edge is through with everything that was handed to it.
        gone: set when it has ended.
    """

    id: str
    route: str
    impairment: Impairment
    expires_at: Instant
    draws: random.Random
    affected: int = 0
    free_at_s: float = 0.0
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    def passes_at_s(self, size: int, now_s: float) -> float:
        """Returns when a chunk that comes now may pass; a chunk of no bytes is the end of a stream.

        Raises:
            ConnectionResetError: never, and its connection breaks.
        """
        amount = self.impairment.amount
        match self.impairment.effect:
            case Effect.DELAY:
                self.affected += size > 0
                return now_s + amount / 1000.0
            case Effect.BANDWIDTH:
                self.affected += size > 0
                self.free_at_s = max(self.free_at_s, now_s) + size / amount
                return self.free_at_s
            case Effect.LOSS:
                if size > 0 and self.draws.random() < amount:
                    self.affected += 1
                    raise ConnectionResetError(f"{self.route} loses messages")
        return now_s

    async def wait_until(self, loop_s: float) -> None:
        """Waits until a loop time, or until the fault has ended."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(loop_s):
                await self.gone.wait()

    def described(self) -> dict[str, Any]:
        """Returns what `list` says of it."""
        impairment = self.impairment
        return {
            "id": self.id,
            "route": self.route,
            "effect": impairment.effect,
            "amount": impairment.amount,
            "affected": self.affected,
        }


class FaultTable:
    """The faults in force, each with its own time to live. Lives in one event loop."""

    def __init__(self, routes: Mapping[str, int], clock: Clock) -> None:
        self._routes = routes
        self._clock = clock
        self._faults: dict[tuple[str, str], InForce] = {}
        self._next_look: asyncio.TimerHandle | None = None

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Carries out one control request and returns its answer."""
        verb = request.get("verb")
        if verb == "impair":
            return self._impair(request)
        if verb == "clear":
            self._end([fault for fault in self._faults.values() if fault.id == str(request["id"])])
            return {"ok": True}
        if verb == "list":
            return {"ok": True, "routes": dict(self._routes), "faults": [fault.described() for fault in self._live()]}
        return {"ok": False, "error": f"unknown verb {verb!r}; known are impair, clear, list"}

    def meet(self, route: str, size: int) -> list[tuple[InForce, float]]:
        """Returns the faults that a chunk meets on `route`, and until which loop time each of them holds it.

        Raises:
            ConnectionResetError: one of them breaks the connection.
        """
        now_s = asyncio.get_running_loop().time()
        return [(fault, fault.passes_at_s(size, now_s)) for fault in self._live() if fault.route == route]

    async def pass_cut(self, route: str) -> None:
        """Returns at once, unless a partition keeps everything on `route` from passing.

        Raises:
            ConnectionResetError: one did, and has ended; what it kept from passing is lost.
        """
        for fault in self._live():
            if fault.route == route and fault.impairment.effect is Effect.PARTITION:
                fault.affected += 1
                await fault.gone.wait()
                raise ConnectionResetError(f"{route} was cut")

    def _impair(self, request: Mapping[str, Any]) -> dict[str, Any]:
        name, route = str(request["id"]), str(request["route"])
        if route not in self._routes:
            return {"ok": False, "error": f"unknown route {route!r}; known are {', '.join(self._routes)}"}
        impairment = Impairment(Effect(request["effect"]), float(request["amount"]))
        deadline = Instant(str(request["boot_id"]), float(request["boottime_s"]))
        known = self._faults.get((name, route))
        if known is None:
            known = InForce(name, route, impairment, deadline, random.Random(f"{name} {route}"))
            self._faults[name, route] = known
        known.impairment, known.expires_at = impairment, deadline
        self._look_at_deadlines()
        return {"ok": True}

    def _live(self) -> list[InForce]:
        now = self._clock.now()
        self._end([fault for fault in self._faults.values() if fault.expires_at.reached(now)])
        return list(self._faults.values())

    def _end(self, faults: list[InForce]) -> None:
        for fault in faults:
            del self._faults[fault.id, fault.route]
            fault.gone.set()

    def _look_at_deadlines(self) -> None:
        """Ends what has run out even where no byte flows that would notice, and comes back for the next deadline."""
        if self._next_look is not None:
            self._next_look.cancel()
        live, now = self._live(), self._clock.now()
        if live:
            next_s = min(fault.expires_at.seconds_until(now) for fault in live)
            loop = asyncio.get_running_loop()
            self._next_look = loop.call_later(min(next_s, _LOOK_AGAIN_S), self._look_at_deadlines)


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
            while chunk := await reader.read(_CHUNK_BYTES):
                await chunks.put((chunk, self._faults.meet(self._name, len(chunk))))
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
