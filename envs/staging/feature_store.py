"""The feature store: serves the features of entities over HTTP, and takes newer ones.

GET /features/ENTITY    {"entity": ENTITY, "features": [...], "age_s": AGE, "stale": BOOLEAN}
GET /snapshot           {"features": [[...], ...]}, of all entities in order
POST /features          {"rows": [[ENTITY, PRODUCED_AT_S, [...]], ...]}

It begins with what a batch job has loaded; whatever is written later is newer. Whether it says so when features have
grown old, and raises an alarm when many have, is an option. Without it, an answer looks the same however old it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from aiohttp import web
from prometheus_client import Counter, Gauge, Histogram

from .component import begin, serve
from .exporter import latency_buckets, new_metrics, routes
from .tracing import Tracing, note
from .world import FEATURES, World, make_world

STALE_ALERT = "StaleFeatures"

_MANY = 0.05
_FOR_S = 1.0
_LARGEST_WRITE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class FeatureStoreSettings:
    """What a feature store needs to know.

    Attributes:
        port: to listen on.
        seed: of the world whose features it holds.
        fresh_for_s: age from which features are said to be stale, seconds; None: nobody says so.
        traces: folder in which it records what it does for traced requests; None: it does not.
    """

    port: int
    seed: int
    fresh_for_s: float | None = None
    traces: str | None = None


class FeatureStore:
    """Answers for the features of one world.

    Args:
        world: what the batch job has loaded.
        fresh_for_s: age from which features are said to be stale, seconds; None: nobody says so.
        clock: returns seconds of Unix time, as rows are stamped with.
        traces: folder in which it records what it does for traced requests; None: it does not.
    """

    def __init__(
        self,
        world: World,
        fresh_for_s: float | None = None,
        clock: Callable[[], float] = time.time,
        *,
        traces: Path | None = None,
    ) -> None:
        self._tracing = Tracing("feature-store", traces)
        self._features = world.features.tolist()
        self._produced_at_s = np.full(len(self._features), clock())
        self._fresh_for_s = fresh_for_s
        self._clock = clock
        self._metrics = new_metrics()
        self._requests = Counter("feature_requests", "Answers by status code.", ["code"], registry=self._metrics)
        self._seconds = Histogram(
            "feature_request_seconds", "Time to an answer.", buckets=latency_buckets(), registry=self._metrics
        )
        self._stale = Counter("feature_stale", "Answers that said they were stale.", registry=self._metrics)
        oldest = Gauge("feature_oldest_seconds", "Age of the oldest features.", registry=self._metrics)
        oldest.set_function(lambda: float(self._ages_s().max()))
        if fresh_for_s is not None:
            firing = Gauge("alert_firing", "Whether an alert fires.", ["alert"], registry=self._metrics)
            # Not for one entity that is a moment late: an alarm is for a person to do something about.
            firing.labels(STALE_ALERT).set_function(
                lambda: float((self._ages_s() > fresh_for_s + _FOR_S).mean() > _MANY)
            )

    def application(self) -> web.Application:
        """Returns the HTTP application."""
        app = web.Application(client_max_size=_LARGEST_WRITE_BYTES)
        app.add_routes([web.get("/features/{entity}", self._get), web.get("/snapshot", self._all)])
        app.add_routes([web.post("/features", self._put), *routes(self._metrics)])
        return app

    async def _get(self, request: web.Request) -> web.Response:
        with self._seconds.time(), self._tracing.hop("GET /features", request.headers):
            entity = request.match_info["entity"]
            known = entity.isdecimal() and int(entity) < len(self._features)
            code = 200 if known else 404
            self._requests.labels(code).inc()
            note({"http.response.status_code": code})
            if not known:
                return web.json_response({"error": f"no entity {entity!r}"}, status=code)
            return web.json_response(self._answer(int(entity)))

    def _answer(self, entity: int) -> dict[str, object]:
        age_s = max(0.0, self._clock() - float(self._produced_at_s[entity]))
        stale = self._fresh_for_s is not None and age_s > self._fresh_for_s
        self._stale.inc(stale)
        return {"entity": entity, "features": self._features[entity], "age_s": round(age_s, 3), "stale": stale}

    async def _all(self, _: web.Request) -> web.Response:
        self._requests.labels(200).inc()
        return web.json_response({"features": self._features})

    async def _put(self, request: web.Request) -> web.Response:
        try:
            rows = [
                (int(entity), float(at_s), _vector(values)) for entity, at_s, values in (await request.json())["rows"]
            ]
            if not all(0 <= entity < len(self._features) for entity, _, _ in rows):
                raise ValueError("no such entity")
        except (ValueError, KeyError, TypeError) as error:
            return web.json_response({"error": f"not features: {error!r}"}, status=400)
        for entity, at_s, values in rows:
            if at_s >= self._produced_at_s[entity]:
                self._features[entity], self._produced_at_s[entity] = values, at_s
        return web.Response(status=204)

    def _ages_s(self) -> np.ndarray:
        return self._clock() - self._produced_at_s


def _vector(values: list[float]) -> list[float]:
    if len(values) != FEATURES:
        raise ValueError(f"{len(values)} values; there are {FEATURES} features")
    return [float(value) for value in values]


def main() -> None:
    """Serves until killed."""
    settings = FeatureStoreSettings(**begin())
    traces = Path(settings.traces) if settings.traces is not None else None
    store = FeatureStore(make_world(settings.seed), settings.fresh_for_s, traces=traces)
    serve(store.application(), settings.port)


if __name__ == "__main__":
    main()
