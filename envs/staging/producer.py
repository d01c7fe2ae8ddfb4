"""The producer: the outside world, which tells what it knows of every entity, over and over, one after the other.

It is no part of the platform, and nobody's target. What it cannot get rid of is dropped: the world does not wait, and
what it says a moment later is newer anyway.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from aiohttp import web
from prometheus_client import Counter

from .component import begin, serve
from .exporter import new_metrics, routes
from .ports import LOOPBACK
from .rows import PARTITIONS, Row, line_of, partition_of
from .world import ENTITIES, World, make_world

_TICK_S = 0.125
_RECONNECT_S = 0.5
_MOST_WAITING_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class ProducerSettings:
    """What a producer needs to know.

    Attributes:
        port: of its exporter.
        rows_port: where the stream takes rows.
        rows_per_s: how many it sends.
        seed: of the world that it tells of.
    """

    port: int
    rows_port: int
    rows_per_s: float
    seed: int


class Producer:
    """Sends rows on one connection per partition."""

    def __init__(self, settings: ProducerSettings, world: World) -> None:
        self._settings = settings
        self._features = world.features
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._metrics = new_metrics()
        self._rows = Counter(
            "producer_rows", "Rows produced, by what became of them.", ["fate"], registry=self._metrics
        )
        for fate in ("sent", "dropped"):
            self._rows.labels(fate)

    def application(self) -> web.Application:
        """Returns the exporter's HTTP application; rows are sent for as long as it runs."""
        app = web.Application()
        app.add_routes(routes(self._metrics))
        app.cleanup_ctx.append(self._producing)
        return app

    async def _producing(self, _: web.Application) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._keep_connected(number)) for number in range(PARTITIONS)]
        tasks.append(asyncio.create_task(self._produce()))
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep_connected(self, number: int) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection(LOOPBACK, self._settings.rows_port)
            except OSError:
                await asyncio.sleep(_RECONNECT_S)
                continue
            writer.write(json.dumps({"partition": number}).encode() + b"\n")
            self._writers[number] = writer
            try:
                await reader.read()  # a stream says nothing: what ends this is the end of the connection
            except OSError:
                pass
            finally:
                del self._writers[number]
                writer.transport.abort()
            await asyncio.sleep(_RECONNECT_S)

    async def _produce(self) -> None:
        clock = asyncio.get_running_loop().time
        began_s, sent = clock(), 0
        while True:
            due = int((clock() - began_s) * self._settings.rows_per_s)
            # A machine that slept owes no backlog.
            sent = max(sent, due - int(self._settings.rows_per_s))
            self._send(range(sent, due))
            sent = due
            await asyncio.sleep(_TICK_S)

    def _send(self, numbers: range) -> None:
        now_s = time.time()
        lines: dict[int, list[bytes]] = {}
        for entity in (number % ENTITIES for number in numbers):
            line = line_of(Row(entity, now_s, self._features[entity]))
            lines.setdefault(partition_of(entity), []).append(line)
        for number, found in lines.items():
            writer = self._writers.get(number)
            takes = writer is not None and writer.transport.get_write_buffer_size() < _MOST_WAITING_BYTES
            if writer is not None and takes:
                writer.write(b"".join(found))
            self._rows.labels("sent" if takes else "dropped").inc(len(found))


def main() -> None:
    """Produces until killed."""
    settings = ProducerSettings(**begin())
    serve(Producer(settings, make_world(settings.seed)).application(), settings.port)


if __name__ == "__main__":
    main()
