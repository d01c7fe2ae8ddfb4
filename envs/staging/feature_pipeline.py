"""The feature pipeline: follows the stream, turns rows into features, and writes them to the feature store.

The features of an entity are the values of its newest row. How much of what it reads it believes is a matter of two
options, each of which may be absent: a *gate* in front of every row (see `rows`), and a *drift alarm* over all of them
(see `drift`). While that alarm fires nothing is written, for the models were not made for such data; and a row is
written only when enough newer ones have come in without an alarm, for a drift is never told by its first row.

The models are trained on examples of their own, drawn from the known rule: nothing that is done to the stream reaches
the training job, and no retraining hides what it does to the answers.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import aiohttp
import numpy as np
from aiohttp import web
from prometheus_client import Counter, Gauge

from .component import begin, serve
from .drift import DriftDetector
from .event_log import lines_of
from .exporter import new_metrics, routes
from .rows import PARTITIONS, Reader, Row, Unreadable, read_leniently, read_strictly
from .stream import NEXT_OFFSET
from .world import ENTITIES, World, make_world

DRIFT_ALERT = "FeatureDrift"

_READ_EVERY_S = 0.5
_WRITE_EVERY_S = 0.25
_TIMEOUT_S = 5.0
_ONE_ROUND = ENTITIES // PARTITIONS
_BELIEVED_AFTER_ROWS = 128

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FeaturePipelineSettings:
    """What a pipeline needs to know.

    Attributes:
        port: of its exporter.
        stream_url: where rows are read.
        store_url: where features are written.
        drifts_of: the component that an alarm about drifting data names.
        gated: whether a row has to fit the schema.
        drift_alarm: whether the newest rows are compared with the data that the models were made for.
        seed: of the world whose features are the reference.
    """

    port: int
    stream_url: str
    store_url: str
    drifts_of: str
    gated: bool
    drift_alarm: bool
    seed: int


class Sifted(NamedTuple):
    """What became of some lines.

    Attributes:
        rows: that may be written now, oldest first; some of them are of earlier lines.
        quarantined: how many lines were not believed.
        withheld: how many rows are not written because the data drift.
    """

    rows: list[Row]
    quarantined: int
    withheld: int


class Belief:
    """Which rows become features.

    Args:
        read: reads a line.
        detector: watches for drift; None where nobody does.
    """

    def __init__(self, read: Reader, detector: DriftDetector | None) -> None:
        self._read = read
        self.detector = detector
        self._waiting: deque[Row] = deque()

    def sift(self, lines: Sequence[bytes]) -> Sifted:
        """Takes lines and returns what is to be written."""
        rows = [row for line in lines if (row := self._readable(line)) is not None]
        quarantined = len(lines) - len(rows)
        if self.detector is None or not rows:
            return Sifted(rows, quarantined, 0)
        self.detector.saw(np.stack([row.values for row in rows]))
        self._waiting.extend(rows)
        withheld = 0
        if self.detector.drifting:
            withheld = len(self._waiting)
            self._waiting.clear()
        believed = max(0, len(self._waiting) - _BELIEVED_AFTER_ROWS)
        return Sifted([self._waiting.popleft() for _ in range(believed)], quarantined, withheld)

    def _readable(self, line: bytes) -> Row | None:
        try:
            return self._read(line)
        except Unreadable:
            return None


class FeaturePipeline:
    """Reads every partition by itself, so that one that is late keeps no other waiting."""

    def __init__(self, settings: FeaturePipelineSettings, world: World) -> None:
        self._settings = settings
        detector = DriftDetector(world.features) if settings.drift_alarm else None
        self._belief = Belief(read_strictly if settings.gated else read_leniently, detector)
        self._unwritten: dict[int, Row] = {}
        self._metrics = metrics = new_metrics()
        self._rows = Counter("pipeline_rows", "Rows read.", registry=metrics)
        self._quarantined = Counter("pipeline_quarantined", "Rows that were not believed.", registry=metrics)
        self._withheld = Counter("pipeline_withheld", "Rows not written because of a drift.", registry=metrics)
        self._written = Counter("pipeline_written", "Features written.", registry=metrics)
        if detector is not None:
            score = Gauge("pipeline_drift_score", "How far the newest rows are off.", registry=metrics)
            score.set_function(lambda: detector.score)
            rate = Gauge("pipeline_drift_rate", "Share of the newest tests that found a drift.", registry=metrics)
            rate.set_function(lambda: detector.rate)
            firing = Gauge("alert_firing", "Whether an alert fires.", ["alert", "component"], registry=metrics)
            firing.labels(DRIFT_ALERT, settings.drifts_of).set_function(lambda: float(detector.drifting))

    def application(self) -> web.Application:
        """Returns the exporter's HTTP application; the stream is followed for as long as it runs."""
        app = web.Application()
        app.add_routes(routes(self._metrics))
        app.cleanup_ctx.append(self._working)
        return app

    async def _working(self, _: web.Application) -> AsyncIterator[None]:
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
            tasks = [asyncio.create_task(self._follow(session, number)) for number in range(PARTITIONS)]
            tasks.append(asyncio.create_task(self._keep_writing(session)))
            yield
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, session: aiohttp.ClientSession, number: int) -> None:
        # What was read before a restart is gone with the process: the last round is read once more.
        offset = -_ONE_ROUND
        while True:
            try:
                offset, lines = await self._read(session, number, offset)
            except (aiohttp.ClientError, TimeoutError, ValueError, KeyError) as error:
                _log.info("partition %d cannot be read: %r", number, error)
            else:
                self._take(lines)
            await asyncio.sleep(_READ_EVERY_S)

    async def _read(self, session: aiohttp.ClientSession, number: int, offset: int) -> tuple[int, list[bytes]]:
        url = f"{self._settings.stream_url}/partitions/{number}?offset={offset}"
        async with session.get(url, raise_for_status=True) as answer:
            return int(answer.headers[NEXT_OFFSET]), lines_of(await answer.read())

    def _take(self, lines: Sequence[bytes]) -> None:
        sifted = self._belief.sift(lines)
        self._rows.inc(len(lines))
        self._quarantined.inc(sifted.quarantined)
        self._withheld.inc(sifted.withheld)
        self._unwritten.update((row.entity, row) for row in sifted.rows)

    async def _keep_writing(self, session: aiohttp.ClientSession) -> None:
        while True:
            await asyncio.sleep(_WRITE_EVERY_S)
            if not self._unwritten:
                continue
            rows, self._unwritten = self._unwritten, {}
            try:
                await self._write(session, rows)
            except (aiohttp.ClientError, TimeoutError) as error:
                _log.info("%d features cannot be written: %r", len(rows), error)
                self._unwritten = rows | self._unwritten  # what has come in meanwhile is newer
            else:
                self._written.inc(len(rows))

    async def _write(self, session: aiohttp.ClientSession, rows: dict[int, Row]) -> None:
        # What is missing becomes 0: a store holds numbers.
        body = [[row.entity, row.produced_at_s, np.nan_to_num(row.values).tolist()] for row in rows.values()]
        async with session.post(f"{self._settings.store_url}/features", json={"rows": body}, raise_for_status=True):
            return


def main() -> None:
    """Works until killed."""
    settings = FeaturePipelineSettings(**begin())
    serve(FeaturePipeline(settings, make_world(settings.seed)).application(), settings.port)


if __name__ == "__main__":
    main()
