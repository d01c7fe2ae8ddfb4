"""What is in force in the fault proxy: on which route, what it does to whatever passes, and until when."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .clock import Clock, Instant
from .data import Disturbance
from .network import Effect, Impairment
from .rows import LineCutter, RowEffect, changed, partition_of

_JITTER = 0.1
"""Share of a delay that is added at most, another one for every chunk: no way is late by the same time twice."""

_LOOK_AGAIN_S = 1.0
"""Longest time between two looks at the deadlines: timers stand still while a machine sleeps, deadlines do not."""


@dataclass(slots=True)
class InForce:
    """An impairment of one route, until its deadline.

    Attributes:
        id: of the injection.
        route: whose bytes it meets.
        impairment: what is done to them.
        expires_at: when it ends by itself.
        draws: decides which messages are lost, and by how much delays differ; named from the injection, so that a
            repetition loses the same ones.
        affected: how often it was felt.
        late_partition: whose rows are held back; None before any was met.
        free_at_s: loop time at which a narrow edge is through with everything that was handed to it.
        gone: set when it has ended.
    """

    id: str
    route: str
    impairment: Impairment | Disturbance
    expires_at: Instant
    draws: random.Random
    affected: int = 0
    late_partition: object | None = None
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
                return now_s + amount / 1000.0 * (1.0 + _JITTER * self.draws.random())
            case Effect.BANDWIDTH:
                self.affected += size > 0
                self.free_at_s = max(self.free_at_s, now_s) + size / amount
                return self.free_at_s
            case Effect.LOSS:
                if size > 0 and self.draws.random() < amount:
                    self.affected += 1
                    raise ConnectionResetError(f"{self.route} loses messages")
        return now_s

    def meets_rows(self, lines: list[bytes]) -> list[bytes]:
        """Returns what rows become."""
        if not isinstance(self.impairment, Disturbance):
            return lines
        effect, amount = self.impairment.effect, self.impairment.amount
        after = [changed(line, effect, amount, self.draws) for line in lines]
        self.affected += sum(line is not None for line in after)
        return [before if line is None else line for before, line in zip(lines, after, strict=True)]

    def holds_rows_s(self, lines: list[bytes]) -> float:
        """Returns for how long rows are held back, seconds."""
        if self.impairment.effect is not RowEffect.HOLD:
            return 0.0
        partitions = [found for line in lines if (found := partition_of(line)) is not None]
        if self.late_partition is None and partitions:
            self.late_partition = partitions[0]
        held = partitions.count(self.late_partition)
        self.affected += held
        return self.impairment.amount if held else 0.0

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

    def meet_rows(self, route: str, chunk: bytes, cutter: LineCutter) -> tuple[bytes, list[tuple[InForce, float]]]:
        """Returns what a chunk becomes on `route`, the beginning of a line kept back, and who holds it until when.

        The whole lines of a chunk pass together; without any fault of rows, all of it passes as it is.
        """
        faults = [f for f in self._live() if f.route == route and isinstance(f.impairment, Disturbance)]
        if not faults or not chunk:
            return cutter.raw(chunk), []
        begun, lines = cutter.whole(chunk)
        now_s = asyncio.get_running_loop().time()
        for fault in faults:
            lines = fault.meets_rows(lines)
        holds = [(fault, now_s + held_s) for fault in faults if (held_s := fault.holds_rows_s(lines))]
        return begun + b"".join(lines), holds

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
        impairment = _parsed_impairment(str(request["effect"]), float(request["amount"]))
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


def _parsed_impairment(effect: str, amount: float) -> Impairment | Disturbance:
    if effect in set(RowEffect):
        return Disturbance(RowEffect(effect), amount)
    return Impairment(Effect(effect), amount)
