"""Where a model server takes features from, in one of two ways.

*Patient* waits for the feature store for as long as it takes, for nobody ever set a timeout. *Bounded* waits briefly
and then answers from the features it knew last: those of an entity change slowly, and an old answer beats none.
Either asks again, or does not, when a call has failed: see `retries`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

import aiohttp
import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Histogram

from .exporter import latency_buckets
from .retries import Retries
from .tracing import note, outgoing, step
from .world import FEATURES

Vector = NDArray[np.float32]

_WARM_UP_TIMEOUT_S = 5.0
_WARM_UP_PAUSE_S = 1.0
_SERVER_FAILED = 500
_NO_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None)


class FeaturesUnavailable(Exception):
    """The feature store did not give the features, and nobody else has them."""


@dataclass(frozen=True, slots=True)
class Features:
    """Features of one entity.

    Attributes:
        values: shape (FEATURES,).
        fallback: whether they are not what the store says now.
    """

    values: Vector
    fallback: bool


class FetchMetrics:
    """What is counted about fetches, whoever makes them."""

    def __init__(self, metrics: CollectorRegistry) -> None:
        # Both are counted when they begin: a ratio of the two is right even while nothing ever ends.
        self.fetches = Counter("model_feature_fetches", "Feature fetches begun.", registry=metrics)
        self.attempts = Counter("model_feature_attempts", "Calls to the feature store for them.", registry=metrics)
        self.seconds = Histogram(
            "model_feature_fetch_seconds", "Time a feature fetch took.", buckets=latency_buckets(), registry=metrics
        )


class FeatureSource(Protocol):
    """Gives features of entities."""

    async def fetch(self, entity: int) -> Features:
        """Returns the features of an entity.

        Raises:
            FeaturesUnavailable: they cannot be had.
        """
        ...


class Patient:
    """Asks the store and waits.

    Args:
        session: to ask with.
        url: of the feature store.
        retries: what is done about a call that failed.
        metrics: where fetches are counted.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str, retries: Retries, metrics: FetchMetrics) -> None:
        self._store = _Store(session, url, None, retries, metrics)

    async def fetch(self, entity: int) -> Features:
        """Returns what the store says, whenever it says it."""
        try:
            return Features(await self._store.features(entity), fallback=False)
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError) as error:
            raise FeaturesUnavailable(f"features of entity {entity}: {error!r}") from error


class Bounded:
    """Asks the store briefly, and falls back to what it knew last.

    Args:
        session: to ask with.
        url: of the feature store.
        timeout_s: how long a fetch may take, all its attempts together, seconds.
        retries: what is done about a call that failed.
        metrics: where fetches are counted.
    """

    def __init__(
        self, session: aiohttp.ClientSession, url: str, timeout_s: float, retries: Retries, metrics: FetchMetrics
    ) -> None:
        self._store = _Store(session, url, timeout_s, retries, metrics)
        self._known: dict[int, Vector] = {}
        self._mean: Vector = np.zeros(FEATURES, np.float32)

    async def fetch(self, entity: int) -> Features:
        """Returns what the store says, or else what it said last, or else the mean of all entities."""
        try:
            self._known[entity] = values = await self._store.features(entity)
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError):
            return Features(self._known.get(entity, self._mean), fallback=True)
        return Features(values, fallback=False)

    async def warm_up(self) -> None:
        """Learns all entities in one go; keeps trying while the store is away."""
        while True:
            try:
                rows = await self._store.snapshot(_WARM_UP_TIMEOUT_S)
            except (aiohttp.ClientError, TimeoutError, ValueError, KeyError):
                await asyncio.sleep(_WARM_UP_PAUSE_S)
                continue
            self._mean = rows.mean(axis=0)
            self._known = dict(enumerate(rows)) | self._known
            return


class _Store:
    """The feature store over HTTP."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        timeout_s: float | None,
        retries: Retries,
        metrics: FetchMetrics,
    ) -> None:
        self._session = session
        self._url = url
        self._timeout_s = timeout_s
        self._retries = retries
        self._metrics = metrics

    async def features(self, entity: int) -> Vector:
        self._metrics.fetches.inc()
        self._retries.requested()
        with self._metrics.seconds.time(), step("fetch features"):
            async with asyncio.timeout(self._timeout_s):
                answer = await self._get_stubbornly(f"/features/{entity}")
        return np.asarray(answer["features"], np.float32)

    async def snapshot(self, timeout_s: float) -> Vector:
        answer = await self._get("/snapshot", aiohttp.ClientTimeout(total=timeout_s))
        return np.asarray(answer["features"], np.float32)

    async def _get_stubbornly(self, path: str) -> dict[str, list[float]]:
        """Asks, and asks again after a failure for as long as the retries allow."""
        failures = 0
        while True:
            self._metrics.attempts.inc()
            note({"features.attempts": failures + 1})
            try:
                return await self._get(path, _NO_TIMEOUT)
            except aiohttp.ClientError as error:
                failures += 1
                if not _may_pass(error) or not await self._retries.again(failures):
                    raise

    async def _get(self, path: str, timeout: aiohttp.ClientTimeout) -> dict[str, list[float]]:
        url = self._url + path
        async with self._session.get(
            url, headers=outgoing(), timeout=timeout, raise_for_status=True, middlewares=(_once,)
        ) as response:
            answer: dict[str, list[float]] = await response.json()
            return answer


async def _once(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Sends a request once.

    aiohttp by itself sends a GET a second time when its connection breaks, which nobody would count and no budget
    would hold; it does not where the error is a more general one.
    """
    try:
        return await send(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise aiohttp.ClientConnectionError(repr(error)) from error


def _may_pass(error: aiohttp.ClientError) -> bool:
    """Tells whether a call could succeed when it is made again: one that was wrong to make stays wrong."""
    return not isinstance(error, aiohttp.ClientResponseError) or error.status >= _SERVER_FAILED
