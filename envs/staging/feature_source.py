"""Where a model server takes features from, in one of two ways.

*Patient* waits for the feature store for as long as it takes, for nobody ever set a timeout. *Bounded* waits briefly
and then answers from the features it knew last: those of an entity change slowly, and an old answer beats none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import aiohttp
import numpy as np
from numpy.typing import NDArray

from .world import FEATURES

Vector = NDArray[np.float32]

_WARM_UP_TIMEOUT_S = 5.0
_WARM_UP_PAUSE_S = 1.0


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
        timed: is told how long every fetch took, seconds.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str, timed: Callable[[float], None]) -> None:
        self._store = _Store(session, url, aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None), timed)

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
        timeout_s: how long a fetch may take, seconds.
        timed: is told how long every fetch took, seconds.
    """

    def __init__(
        self, session: aiohttp.ClientSession, url: str, timeout_s: float, timed: Callable[[float], None]
    ) -> None:
        self._store = _Store(session, url, aiohttp.ClientTimeout(total=timeout_s), timed)
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
        timeout: aiohttp.ClientTimeout,
        timed: Callable[[float], None],
    ) -> None:
        self._session = session
        self._url = url
        self._timeout = timeout
        self._timed = timed

    async def features(self, entity: int) -> Vector:
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            answer = await self._get(f"/features/{entity}", self._timeout)
        finally:
            self._timed(clock() - began)
        return np.asarray(answer["features"], np.float32)

    async def snapshot(self, timeout_s: float) -> Vector:
        answer = await self._get("/snapshot", aiohttp.ClientTimeout(total=timeout_s))
        return np.asarray(answer["features"], np.float32)

    async def _get(self, path: str, timeout: aiohttp.ClientTimeout) -> dict[str, list[float]]:
        async with self._session.get(self._url + path, timeout=timeout, raise_for_status=True) as response:
            answer: dict[str, list[float]] = await response.json()
            return answer
