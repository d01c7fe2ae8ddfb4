"""Where a model server takes features from, in one of two ways.

*Patient* waits for the feature store for as long as it takes, for nobody ever set a timeout. *Bounded* waits briefly
and then answers from the features it knew last: those of an entity change slowly, and an old answer beats none. So it
does where the store itself says that what it has is stale, for the store may have been given anything since. What it
knows is kept in a file, too: a replica that starts while the store is away would know nothing, and be wrong.
Either asks again, or does not, when a call has failed: see `retries`.
"""

from __future__ import annotations

import asyncio
import io
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Histogram

from .exporter import latency_buckets
from .files import write_atomically
from .retries import Retries
from .tracing import note, outgoing, step
from .world import FEATURES

Vector = NDArray[np.float32]

_WARM_UP_TIMEOUT_S = 5.0
_WARM_UP_PAUSE_S = 1.0
_SERVER_FAILED = 500
_log = logging.getLogger(__name__)

_NO_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None)


class FeaturesUnavailable(Exception):
    """The feature store did not give the features, and nobody else has them."""


@dataclass(frozen=True, slots=True)
class Features:
    """Features of one entity.

    Attributes:
        values: shape (FEATURES,).
        fallback: whether they are not what the store says now.
        age_s: how old they are, seconds; None where they do not pass for fresh.
    """

    values: Vector
    fallback: bool
    age_s: float | None = None


class FetchMetrics:
    """What is counted about fetches, whoever makes them."""

    def __init__(self, metrics: CollectorRegistry) -> None:
        # Both are counted when they begin: a ratio of the two is right even while nothing ever ends.
        self.fetches = Counter("model_feature_fetches", "Feature fetches begun.", registry=metrics)
        self.attempts = Counter("model_feature_attempts", "Calls to the feature store for them.", registry=metrics)
        self.seconds = Histogram(
            "model_feature_fetch_seconds", "Time a feature fetch took.", buckets=latency_buckets(), registry=metrics
        )


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
            answer = await self._store.features(entity)
            return Features(answer.values, fallback=False, age_s=None if answer.stale else answer.age_s)
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
        saved: file of the features that others have known last; None: there is none.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        timeout_s: float,
        retries: Retries,
        metrics: FetchMetrics,
        saved: Path | None = None,
    ) -> None:
        self._store = _Store(session, url, timeout_s, retries, metrics)
        self._saved = saved
        self._known: dict[int, Vector] = {}
        self._mean: Vector = np.zeros(FEATURES, np.float32)
        if saved is not None:
            self._recall(saved)

    async def fetch(self, entity: int) -> Features:
        """Returns what the store says, or else what it said last, or else the mean of all entities."""
        try:
            answer = await self._store.features(entity)
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError):
            return self._last_known(entity)
        if answer.stale:
            return self._last_known(entity)
        self._known[entity] = answer.values
        return Features(answer.values, fallback=False, age_s=answer.age_s)

    def _last_known(self, entity: int) -> Features:
        return Features(self._known.get(entity, self._mean), fallback=True)

    async def warm_up(self) -> None:
        """Learns all entities in one go; keeps trying while the store is away."""
        while True:
            try:
                rows = await self._store.snapshot(_WARM_UP_TIMEOUT_S)
            except (aiohttp.ClientError, TimeoutError, ValueError, KeyError):
                await asyncio.sleep(_WARM_UP_PAUSE_S)
                continue
            self._mean = rows.mean(axis=0)
            # Those of a file may be old; those that were asked for meanwhile are the same, but for moments.
            self._known |= dict(enumerate(rows))
            if self._saved is not None:
                _save(self._saved, rows)
            return

    def _recall(self, saved: Path) -> None:
        try:
            rows = np.load(saved, allow_pickle=False)
        except FileNotFoundError:
            return
        except (OSError, ValueError, EOFError) as error:
            _log.warning("knowing no features: %s cannot be read: %s", saved, error)
            return
        if rows.ndim == 2 and rows.shape[1] == FEATURES and rows.dtype == np.float32 and len(rows):
            self._mean = rows.mean(axis=0)
            self._known = dict(enumerate(rows))
        else:
            _log.warning("knowing no features: %s holds %s of shape %s", saved, rows.dtype, rows.shape)


def _save(path: Path, rows: Vector) -> None:
    """Keeps what is known for those that start later; who cannot, does without."""
    data = io.BytesIO()
    np.save(data, rows, allow_pickle=False)
    own = path.with_suffix(f".{os.getpid()}")  # of several replicas the last one wins
    try:
        write_atomically(own, data.getvalue())
        own.replace(path)
    except OSError as error:
        _log.warning("features that are known cannot be kept: %s", error)


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the store says of one entity."""

    values: Vector
    age_s: float
    stale: bool


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

    async def features(self, entity: int) -> _Answer:
        self._metrics.fetches.inc()
        self._retries.requested()
        with self._metrics.seconds.time(), step("fetch features"):
            async with asyncio.timeout(self._timeout_s):
                answer = await self._get_stubbornly(f"/features/{entity}")
        return _Answer(np.asarray(answer["features"], np.float32), float(answer["age_s"]), bool(answer["stale"]))

    async def snapshot(self, timeout_s: float) -> Vector:
        answer = await self._get("/snapshot", aiohttp.ClientTimeout(total=timeout_s))
        return np.asarray(answer["features"], np.float32)

    async def _get_stubbornly(self, path: str) -> dict[str, Any]:
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

    async def _get(self, path: str, timeout: aiohttp.ClientTimeout) -> dict[str, Any]:
        url = self._url + path
        async with self._session.get(
            url, headers=outgoing(), timeout=timeout, raise_for_status=True, middlewares=(_once,)
        ) as response:
            answer: dict[str, Any] = await response.json()
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
