"""The fault proxy as a process of its own, between real sockets."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

from actuators.clock import BootClock
from actuators.fault_table import InForce
from actuators.network import Effect, Impairment

EFFECTS = {"delay": 60_000.0, "loss": 1.0, "partition": 1.0, "bandwidth": 0.01}
"""Amounts under which nothing passes for as long as a test can wait."""

SILENCE_S = 0.2


@dataclass
class Scene:
    """A proxy with two routes to one echo server, which answers only while `speaks` is set, and sets `asked` itself."""

    ports: dict[str, int]
    control: Path
    speaks: asyncio.Event
    asked: asyncio.Event
    lines: list[Line] = field(default_factory=list)

    async def line(self, route: str) -> Line:
        return await self.line_to(self.ports[route])

    async def line_to(self, port: int) -> Line:
        self.lines.append(Line(*await asyncio.open_connection("127.0.0.1", port)))
        return self.lines[-1]

    async def ask(self, **request: Any) -> dict[str, Any]:
        reader, writer = await asyncio.open_unix_connection(self.control)
        writer.write(json.dumps(request).encode() + b"\n")
        answer = json.loads(await reader.readline())
        writer.close()
        return answer

    async def impair(
        self, effect: str, amount: float | None = None, name: str = "bb-1", route: str = "a", seconds: float = 60.0
    ) -> None:
        amount = EFFECTS[effect] if amount is None else amount
        until = asdict(BootClock().now().after(seconds))
        assert await self.ask(verb="impair", id=name, route=route, effect=effect, amount=amount, **until) == {
            "ok": True
        }

    async def clear(self, name: str = "bb-1") -> None:
        assert await self.ask(verb="clear", id=name) == {"ok": True}

    async def affected(self) -> dict[str, int]:
        return {fault["route"]: fault["affected"] for fault in (await self.ask(verb="list"))["faults"]}

    async def until_felt(self, times: int = 1) -> None:
        while sum((await self.affected()).values()) < times:
            await asyncio.sleep(0.01)


class Line:
    """One connection through the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def said(self, text: bytes = b"hello") -> bytes:
        self.writer.write(text)
        return await self.reader.readexactly(len(text))

    async def is_silent(self) -> bool:
        try:
            async with asyncio.timeout(SILENCE_S):
                await self.reader.read(1)
        except TimeoutError:
            return True
        return False

    async def is_reset(self) -> bool:
        try:
            await self.reader.read(1)
        except ConnectionResetError:
            return True
        return False


@asynccontextmanager
async def scene(folder: Path) -> AsyncIterator[Scene]:
    speaks, asked = asyncio.Event(), asyncio.Event()
    speaks.set()

    heard: set[asyncio.Task[None] | None] = set()
    silent = asyncio.Event()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.add(asyncio.current_task())
        silent.clear()
        try:
            while text := await reader.read(4096):
                asked.set()
                await speaks.wait()
                writer.write(text)
        except ConnectionResetError:
            pass
        finally:
            writer.close()
            heard.discard(asyncio.current_task())
            if not heard:
                silent.set()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port, control = server.sockets[0].getsockname()[1], folder / "proxy.sock"
    routes = [part for name in "ab" for part in ("--route", f"{name}=0:{port}")]
    command = [sys.executable, "-m", "actuators.proxy", "--control", str(control), *routes]
    proxy = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    place = Scene(json.loads(await proxy.stdout.readline())["routes"], control, speaks, asked)
    try:
        yield place
    finally:
        proxy.kill()
        await proxy.wait()
        server.close()
        for line in place.lines:
            line.writer.transport.abort()
        if heard:
            await silent.wait()


@pytest.fixture
def play(tmp_path) -> Callable[[Callable[[Scene], Coroutine[Any, Any, None]]], None]:
    """Runs a scenario with a scene of its own."""

    def run(scenario) -> None:
        async def whole() -> None:
            async with asyncio.timeout(20), scene(tmp_path) as place:
                await scenario(place)

        asyncio.run(whole())

    return run


def test_an_unimpaired_route_hands_everything_through(play):
    async def scenario(place: Scene) -> None:
        line = await place.line("a")
        assert await line.said(b"x" * 200_000) == b"x" * 200_000
        line.writer.write_eof()
        assert await line.reader.read() == b""

    play(scenario)


@pytest.mark.parametrize("effect", EFFECTS)
def test_nothing_passes_while_it_lasts_and_the_other_route_is_left_alone(play, effect):
    async def scenario(place: Scene) -> None:
        line, other = await place.line("a"), await place.line("b")
        assert await line.said() == b"hello"
        await place.impair(effect)
        assert await place.affected() == {"a": 0}
        line.writer.write(b"are you there?")
        assert await (line.is_reset() if effect == "loss" else line.is_silent())
        assert await place.affected() == {"a": 1}
        assert await other.said() == b"hello"

    play(scenario)


@pytest.mark.parametrize("how", ["cleared", "expired"])
@pytest.mark.parametrize("effect", EFFECTS)
def test_when_it_ends_nothing_waits_any_more(play, effect, how):
    """Even where no byte flows that would notice: what waits passes at once, what was cut off is reset."""

    async def scenario(place: Scene) -> None:
        line = await place.line("a")
        assert await line.said() == b"hello"
        await place.impair(effect, seconds=60.0 if how == "cleared" else 3.0)
        line.writer.write(b"are you there?")
        await place.until_felt()
        if how == "cleared":
            await place.clear()
        if effect in {"loss", "partition"}:
            assert await line.is_reset()
        else:
            assert await line.reader.readexactly(14) == b"are you there?"
        while await place.affected():
            await asyncio.sleep(0.01)
        assert await (await place.line("a")).said() == b"hello"

    play(scenario)


def test_delays_differ_a_little_and_in_a_repetition_by_the_same():
    def held_ms() -> list[float]:
        draws, until = random.Random("bb-1 a"), BootClock().now().after(60.0)
        fault = InForce("bb-1", "a", Impairment(Effect.DELAY, 200.0), until, draws)
        return [1000.0 * fault.passes_at_s(1, 0.0) for _ in range(32)]

    held = held_ms()
    assert 200.0 <= min(held) < 205.0 < 215.0 < max(held) <= 220.0
    assert held_ms() == held


def test_which_messages_are_lost_is_decided_by_the_injections_name(play):
    async def losses(place: Scene, name: str) -> list[bool]:
        await place.impair("loss", 0.5, name)
        found = []
        for _ in range(24):
            line = await place.line("a")
            try:
                found.append(await line.said() != b"hello")
            except (ConnectionResetError, asyncio.IncompleteReadError):
                found.append(True)
            line.writer.close()
        assert await place.affected() == {"a": sum(found)}
        await place.clear(name)
        return found

    async def scenario(place: Scene) -> None:
        first = await losses(place, "bb-1")
        assert 4 < sum(first) < 20
        assert await losses(place, "bb-1") == first
        assert await losses(place, "bb-2") != first

    play(scenario)


def test_a_partition_accepts_connections_and_answers_none(play):
    async def scenario(place: Scene) -> None:
        await place.impair("partition")
        line = await place.line("a")
        await place.until_felt()
        assert await line.is_silent()
        await place.clear()
        assert await line.is_reset()

    play(scenario)


def test_a_partition_keeps_answers_back_too_and_spares_connections_that_said_nothing(play):
    async def scenario(place: Scene) -> None:
        asked, idle = await place.line("a"), await place.line("a")
        assert await idle.said() == b"hello"
        assert await asked.said() == b"hello"
        place.speaks.clear()
        place.asked.clear()
        asked.writer.write(b"what time is it?")
        await place.asked.wait()
        await place.impair("partition")
        place.speaks.set()
        await place.until_felt()
        assert await asked.is_silent()
        await place.clear()
        assert await asked.is_reset()
        assert await idle.said() == b"hello"

    play(scenario)


def test_a_narrow_edge_is_shared_by_its_connections(play):
    async def scenario(place: Scene) -> None:
        lines = [await place.line("a") for _ in range(4)]
        await place.impair("bandwidth", 1000.0)
        began_s = asyncio.get_running_loop().time()
        await asyncio.gather(*(line.said(b"x" * 100) for line in lines))
        assert asyncio.get_running_loop().time() - began_s >= 0.39
        assert await place.affected() == {"a": 4}

    play(scenario)


def test_one_injection_may_impair_several_routes_and_is_cleared_as_one(play):
    async def scenario(place: Scene) -> None:
        await place.impair("partition", route="a")
        await place.impair("partition", route="b")
        await place.impair("delay", name="bb-2", route="b")
        assert await place.affected() == {"a": 0, "b": 0}
        await place.clear("bb-1")
        assert await place.affected() == {"b": 0}

    play(scenario)


def test_saying_it_again_changes_the_amount_and_goes_on_counting(play):
    async def scenario(place: Scene) -> None:
        await place.impair("delay", 1.0)
        line = await place.line("a")
        await line.said()
        await place.impair("delay", 2.0)
        (fault,) = (await place.ask(verb="list"))["faults"]
        assert fault == {"id": "bb-1", "route": "a", "effect": "delay", "amount": 2.0, "affected": 1}

    play(scenario)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"effect": "flood"}, "'flood' is not a valid Effect"),
        ({"amount": 0.0}, "amount of loss is 0.0; allowed are finite values above 0"),
        ({"route": "c"}, "unknown route 'c'; known are a, b"),
        ({"verb": "harm"}, "unknown verb 'harm'; known are impair, clear, list"),
        ({"boottime_s": None}, "unusable request"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(play, changes, message):
    request = {"verb": "impair", "id": "bb-1", "route": "a", "effect": "loss", "amount": 0.5}

    async def scenario(place: Scene) -> None:
        answer = await place.ask(**request | asdict(BootClock().now().after(9.0)) | changes)
        assert not answer["ok"]
        assert message in answer["error"]
        assert await place.affected() == {}

    play(scenario)


def test_where_nobody_listens_a_caller_is_reset(play):
    async def scenario(place: Scene) -> None:
        with_nobody = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "actuators.proxy", "--control", f"{place.control}.2", "--route", "dead=0:1"),
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            port = json.loads(await with_nobody.stdout.readline())["routes"]["dead"]
            with suppress(ConnectionResetError):  # it may come so early that there never is a connection
                assert await (await place.line_to(port)).is_reset()
        finally:
            with_nobody.kill()
            await with_nobody.wait()

    play(scenario)
