"""The client: an open-loop load that knows the right answers.

Requests leave at random moments (a Poisson process) whether or not earlier ones have been answered, as those of many
independent users do. A load that waits for answers would spare a slow platform and hide how slow it is.

Who is turned away at once and told when to come again was not served, but knows it. Such a request is *shed*: an
outcome of its own, neither an answer nor a failure.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import numpy as np
from aiohttp import web
from prometheus_client import Counter, Gauge, Histogram

from .calibration_error import CalibrationError
from .component import begin, serve
from .exporter import latency_buckets, new_metrics, routes
from .tracing import Tracing, fail, note, outgoing
from .world import ENTITIES, World, make_world

_OUTCOMES = ("ok", "error", "timeout", "shed")
_LONGEST_BACKLOG_S = 1.0


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """What a client needs to know.

    Attributes:
        port: of its exporter.
        url: where predictions are asked for.
        requests_per_s: mean rate, requests per second.
        timeout_s: how long it waits for an answer, seconds.
        seed: of the world and of the moments and entities it asks for.
        traces: folder in which it records some of its requests; None: none of them.
    """

    port: int
    url: str
    requests_per_s: float
    timeout_s: float
    seed: int
    traces: str | None = None


class Client:
    """Asks for predictions, and checks them against the known rule."""

    def __init__(self, settings: ClientSettings, world: World) -> None:
        self._settings = settings
        self._labels = world.labels
        self._rng = np.random.default_rng(settings.seed)
        self._tracing = Tracing("client", Path(settings.traces) if settings.traces is not None else None)
        self._in_flight: set[asyncio.Task[None]] = set()
        self._metrics = metrics = new_metrics()
        self._sent = Counter("client_sent", "Requests sent.", registry=metrics)
        self._requests = Counter("client_requests", "Requests ended, by outcome.", ["outcome"], registry=metrics)
        self._correct = Counter("client_correct", "Answers that were right.", registry=metrics)
        self._seconds = Histogram(
            "client_latency_seconds", "Time to the end of a request.", buckets=latency_buckets(), registry=metrics
        )
        self._calibration = CalibrationError()
        calibration_error = Gauge("client_calibration_error", "Of the newest answers.", registry=metrics)
        calibration_error.set_function(self._calibration.value)
        Gauge("client_in_flight", "Requests not ended.", registry=metrics).set_function(lambda: len(self._in_flight))
        for outcome in _OUTCOMES:
            self._requests.labels(outcome)

    def application(self) -> web.Application:
        """Returns the exporter's HTTP application; the load runs for as long as it does."""
        app = web.Application()
        app.add_routes(routes(self._metrics))
        app.cleanup_ctx.append(self._sending)
        return app

    async def _sending(self, _: web.Application) -> AsyncIterator[None]:
        timeout = aiohttp.ClientTimeout(total=self._settings.timeout_s)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
            sender = asyncio.create_task(self._send_forever(session))
            yield
            sender.cancel()

    async def _send_forever(self, session: aiohttp.ClientSession) -> None:
        clock = asyncio.get_running_loop().time
        due = clock()
        while True:
            # A machine that slept owes no backlog.
            due = max(due, clock() - _LONGEST_BACKLOG_S) + self._rng.exponential(1 / self._settings.requests_per_s)
            await asyncio.sleep(max(0.0, due - clock()))
            request = asyncio.create_task(self._request(session, int(self._rng.integers(ENTITIES))))
            self._in_flight.add(request)
            request.add_done_callback(self._in_flight.discard)

    async def _request(self, session: aiohttp.ClientSession, entity: int) -> None:
        self._sent.inc()
        with self._seconds.time(), self._tracing.hop("predict"):
            outcome = await self._outcome(session, entity)
            if outcome != "ok":
                fail(outcome)
        self._requests.labels(outcome).inc()

    async def _outcome(self, session: aiohttp.ClientSession, entity: int) -> str:
        try:
            async with session.post(self._settings.url, json={"entity": entity}, headers=outgoing()) as answer:
                if answer.status == 503 and "Retry-After" in answer.headers:
                    return "shed"
                if answer.status != 200:
                    return "error"
                prediction = await answer.json()
            label, score = int(prediction["label"]), float(prediction["score"])
        except TimeoutError:
            return "timeout"
        except (aiohttp.ClientError, ValueError, KeyError, TypeError):
            return "error"
        right = bool(label == self._labels[entity])
        self._correct.inc(right)
        note({"answer.right": right})
        self._calibration.saw(score, right=right)
        return "ok"


def main() -> None:
    """Sends until killed."""
    settings = ClientSettings(**begin())
    serve(Client(settings, make_world(settings.seed)).application(), settings.port)


if __name__ == "__main__":
    main()
