"""The feature store: serves the features of entities over HTTP.

GET /features/ENTITY    {"entity": ENTITY, "features": [...]}
GET /snapshot           {"features": [[...], ...]}, of all entities in order
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web
from prometheus_client import Counter, Histogram

from .component import begin, serve
from .exporter import latency_buckets, new_metrics, routes
from .tracing import Tracing, note
from .world import World, make_world


@dataclass(frozen=True, slots=True)
class FeatureStoreSettings:
    """What a feature store needs to know.

    Attributes:
        port: to listen on.
        seed: of the world whose features it holds.
        traces: folder in which it records what it does for traced requests; None: it does not.
    """

    port: int
    seed: int
    traces: str | None = None


class FeatureStore:
    """Answers for the features of one world."""

    def __init__(self, world: World, *, traces: Path | None = None) -> None:
        self._tracing = Tracing("feature-store", traces)
        rows = world.features.tolist()
        self._bodies = [json.dumps({"entity": entity, "features": row}) for entity, row in enumerate(rows)]
        self._snapshot = json.dumps({"features": rows})
        self._metrics = new_metrics()
        self._requests = Counter("feature_requests", "Answers by status code.", ["code"], registry=self._metrics)
        self._seconds = Histogram(
            "feature_request_seconds", "Time to an answer.", buckets=latency_buckets(), registry=self._metrics
        )

    def application(self) -> web.Application:
        """Returns the HTTP application."""
        app = web.Application()
        app.add_routes([web.get("/features/{entity}", self._features), web.get("/snapshot", self._all)])
        app.add_routes(routes(self._metrics))
        return app

    async def _features(self, request: web.Request) -> web.Response:
        with self._seconds.time(), self._tracing.hop("GET /features", request.headers):
            entity = request.match_info["entity"]
            known = entity.isdecimal() and int(entity) < len(self._bodies)
            code = 200 if known else 404
            self._requests.labels(code).inc()
            note({"http.response.status_code": code})
            if not known:
                return web.json_response({"error": f"no entity {entity!r}"}, status=code)
            return web.Response(text=self._bodies[int(entity)], content_type="application/json")

    async def _all(self, _: web.Request) -> web.Response:
        self._requests.labels(200).inc()
        return web.Response(text=self._snapshot, content_type="application/json")


def main() -> None:
    """Serves until killed."""
    settings = FeatureStoreSettings(**begin())
    traces = Path(settings.traces) if settings.traces is not None else None
    serve(FeatureStore(make_world(settings.seed), traces=traces).application(), settings.port)


if __name__ == "__main__":
    main()
