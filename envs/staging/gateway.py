"""The gateway: the platform's front door, `POST /predict {"entity": N}`.

It forwards to the model server and hands its answer through. A model server that cannot be reached is a 502, one that
takes too long a 504. A gateway with a bound turns away whoever comes while as many requests as that are under way: a
503 that says when to come again, at once, so that those who were let in are answered in time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from aiohttp import web
from prometheus_client import Counter, Gauge, Histogram

from .component import begin, serve
from .exporter import latency_buckets, new_metrics, routes
from .tracing import Tracing, fail, note, outgoing

_COME_AGAIN_S = 1


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """What a gateway needs to know.

    Attributes:
        port: to listen on.
        upstream_url: where predictions are made.
        upstream_timeout_s: how long it waits for one, seconds.
        most_in_flight: how many it lets under way at once; None: whoever comes.
        traces: folder in which it records what it does for traced requests; None: it does not.
    """

    port: int
    upstream_url: str
    upstream_timeout_s: float
    most_in_flight: int | None
    traces: str | None = None


class Gateway:
    """Forwards predictions upstream."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._tracing = Tracing("gateway", Path(settings.traces) if settings.traces is not None else None)
        self._metrics = new_metrics()
        self._in_flight = 0
        Gauge("gateway_in_flight", "Requests under way.", registry=self._metrics).set_function(lambda: self._in_flight)
        self._requests = Counter("gateway_requests", "Answers by status code.", ["code"], registry=self._metrics)
        self._seconds = Histogram(
            "gateway_upstream_seconds", "Time the upstream took.", buckets=latency_buckets(), registry=self._metrics
        )
        self._upstream: aiohttp.ClientSession

    def application(self) -> web.Application:
        """Returns the HTTP application."""
        app = web.Application()
        app.add_routes([web.post("/predict", self._predict), *routes(self._metrics)])
        app.cleanup_ctx.append(self._connected)
        return app

    async def _connected(self, _: web.Application) -> AsyncIterator[None]:
        timeout = aiohttp.ClientTimeout(total=self._settings.upstream_timeout_s)
        # No limit on connections: one slow upstream must not look like a full pool.
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as self._upstream:
            yield

    async def _predict(self, request: web.Request) -> web.Response:
        most = self._settings.most_in_flight
        if most is not None and self._in_flight >= most:
            self._requests.labels(503).inc()
            return web.Response(status=503, headers={"Retry-After": str(_COME_AGAIN_S)})
        self._in_flight += 1
        try:
            body = await request.read()
            with self._seconds.time(), self._tracing.hop("POST /predict", request.headers):
                code, answer = await self._forward(body)
                note({"http.response.status_code": code})
                if code >= 500:
                    fail(f"HTTP {code}")
        finally:
            self._in_flight -= 1
        self._requests.labels(code).inc()
        return web.Response(body=answer, status=code, content_type="application/json")

    async def _forward(self, body: bytes) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json", **outgoing()}
        try:
            async with self._upstream.post(self._settings.upstream_url, data=body, headers=headers) as answer:
                return answer.status, await answer.read()
        except TimeoutError:
            return 504, b'{"error": "the model server took too long"}'
        except aiohttp.ClientError:
            return 502, b'{"error": "the model server cannot be reached"}'


def main() -> None:
    """Serves until killed."""
    settings = GatewaySettings(**begin())
    serve(Gateway(settings).application(), settings.port)


if __name__ == "__main__":
    main()
