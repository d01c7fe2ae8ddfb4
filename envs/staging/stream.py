"""The stream: a partitioned event log that can be replayed.

Producers connect over TCP and write lines; the first one, `{"partition": P}`, says where all others belong. What lines
hold is nobody's business here. Consumers ask over HTTP:

GET /partitions/P?offset=N    lines from offset N on, `Next-Offset` says where to go on; N < 0 counts from the end
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web
from prometheus_client import Counter, Gauge

from .component import begin, serve
from .event_log import EventLog
from .exporter import new_metrics, routes
from .ports import LOOPBACK
from .rows import PARTITIONS

NEXT_OFFSET = "Next-Offset"
_MOST_LINES = 2048
_LONGEST_LINE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """What a stream needs to know.

    Attributes:
        port: of HTTP, for consumers.
        rows_port: of TCP, for producers.
        folder: of its logs.
    """

    port: int
    rows_port: int
    folder: str


class Stream:
    """Takes lines and gives them away again."""

    def __init__(self, settings: StreamSettings) -> None:
        self._settings = settings
        self._logs = [EventLog(Path(settings.folder) / str(number)) for number in range(PARTITIONS)]
        # Who has not asked yet does not lag: nobody knows from where on it will want to read.
        self._asked: dict[int, int] = {}
        self._producers: set[asyncio.Task[None]] = set()
        self._metrics = new_metrics()
        self._rows = Counter("stream_rows", "Rows taken.", ["partition"], registry=self._metrics)
        lag = Gauge("stream_lag_rows", "Rows that the consumer has not asked for yet.", registry=self._metrics)
        lag.set_function(self._lag)
        for number in range(PARTITIONS):
            self._rows.labels(number)

    def application(self) -> web.Application:
        """Returns the HTTP application; producers are listened to for as long as it runs."""
        app = web.Application()
        app.add_routes([web.get("/partitions/{number:\\d+}", self._read), *routes(self._metrics)])
        app.cleanup_ctx.append(self._listening)
        return app

    async def _listening(self, _: web.Application) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._take, LOOPBACK, self._settings.rows_port, limit=_LONGEST_LINE_BYTES)
        yield
        server.close()
        for producer in self._producers:
            producer.cancel()
        for log in self._logs:
            log.close()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 (a coroutine of asyncio's server is a task)
        self._producers.add(task)
        try:
            number = int(json.loads(await reader.readline())["partition"])
            if 0 <= number < PARTITIONS:
                await self._append_all(number, reader)
        except (OSError, ValueError, KeyError, TypeError):
            pass  # who breaks off, or says nothing that could be placed, is not listened to
        finally:
            self._producers.discard(task)
            writer.close()

    async def _append_all(self, number: int, reader: asyncio.StreamReader) -> None:
        rest = b""
        while chunk := await reader.read(_LONGEST_LINE_BYTES):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > _LONGEST_LINE_BYTES:
                raise ValueError("a line has no end")
            self._logs[number].append([line + b"\n" for line in lines])
            self._rows.labels(number).inc(len(lines))

    async def _read(self, request: web.Request) -> web.Response:
        number, offset = int(request.match_info["number"]), request.query.get("offset", "0")
        if number >= PARTITIONS or not offset.removeprefix("-").isdecimal():
            return web.json_response({"error": f"no partition {number} with an offset {offset!r}"}, status=404)
        begins, lines = self._logs[number].read(int(offset), _MOST_LINES)
        self._asked[number] = begins + len(lines)
        headers = {NEXT_OFFSET: str(self._asked[number])}
        return web.Response(body=b"".join(lines), content_type="application/x-ndjson", headers=headers)

    def _lag(self) -> float:
        return float(sum(self._logs[number].next - offset for number, offset in self._asked.items()))


def main() -> None:
    """Serves until killed."""
    settings = StreamSettings(**begin())
    serve(Stream(settings).application(), settings.port)


if __name__ == "__main__":
    main()
