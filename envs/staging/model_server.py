"""The model server: what runs inside of a Ray Serve replica.

A replica starts its servers and tasks in its constructor: when Ray restarts it, nothing else is run.
"""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge
from starlette.requests import Request
from starlette.responses import JSONResponse

from .announcements import announce
from .errors import DamagedFile
from .exporter import export_in_thread, new_metrics
from .feature_source import Bounded, FeaturesUnavailable, FetchMetrics, Patient
from .logs import log_to
from .model import Model
from .registry import Registry
from .retries import Budgeted, Endless

MODEL_SERVER = "model-server"
PREDICT_PATH = "/predict"

_RELOAD_EVERY_S = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelServerSettings:
    """What a replica needs to know.

    Attributes:
        registry: folder of published models.
        announcements: folder in which it says where it is.
        log: its log file.
        features_url: of the feature store.
        feature_timeout_s: how long it waits for features, seconds; None: for ever.
        budgeted_retries: whether it asks for features again within limits; without end if not.
        seed: of the pauses between attempts.
    """

    registry: Path
    announcements: Path
    log: Path
    features_url: str
    feature_timeout_s: float | None
    budgeted_retries: bool
    seed: int


class ReloadingModel:
    """The current model of a registry; a damaged version is passed over and the last good one stays."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._model: Model | None = None
        self.version = 0

    @property
    def model(self) -> Model | None:
        """The newest good model, None before there was one."""
        return self._model

    def reload(self) -> None:
        """Loads the current version unless it is loaded already."""
        version = self._registry.current_version()
        if version is None or version == self.version:
            return
        try:
            self._model = self._registry.load(version)
        except DamagedFile as error:
            _log.warning("keeping model version %d: %s", self.version, error)
        else:
            self.version = version


class ModelServer:
    """Answers predictions; one per replica. It is made inside of the event loop that it will run in."""

    def __init__(self, settings: ModelServerSettings) -> None:
        log_to(settings.log)
        self._current = ReloadingModel(Registry(settings.registry))
        self._current.reload()
        metrics = new_metrics()
        self._metrics = ReplicaMetrics(metrics, self._current)
        self._tasks = [asyncio.create_task(self._keep_reloading())]
        self._features = self._feature_source(settings, FetchMetrics(metrics))
        announce(settings.announcements, MODEL_SERVER, export_in_thread(metrics))

    async def __call__(self, request: Request) -> JSONResponse:
        """Answers `{"entity": N}` with a label, its score, and where they came from."""
        entity = int((await request.json())["entity"])
        answer = await self._predict(entity)
        self._metrics.requests.labels("error" if "error" in answer else "ok").inc()
        return JSONResponse(answer, status_code=500 if "error" in answer else 200)

    async def _predict(self, entity: int) -> dict[str, object]:
        model = self._current.model
        if model is None:
            return {"error": "no model could be loaded"}
        try:
            features = await self._features.fetch(entity)
        except FeaturesUnavailable as error:
            return {"error": str(error)}
        if features.fallback:
            self._metrics.fallbacks.inc()
        prediction = model.predict(features.values[np.newaxis])
        return {
            "label": int(prediction.labels[0]),
            "score": float(prediction.scores[0]),
            "model_version": self._current.version,
            "fallback": features.fallback,
        }

    def _feature_source(self, settings: ModelServerSettings, metrics: FetchMetrics) -> Bounded | Patient:
        session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        retries = Budgeted(random.Random(settings.seed)) if settings.budgeted_retries else Endless()
        if settings.feature_timeout_s is None:
            return Patient(session, settings.features_url, retries, metrics)
        source = Bounded(session, settings.features_url, settings.feature_timeout_s, retries, metrics)
        self._tasks.append(asyncio.create_task(source.warm_up()))
        return source

    async def _keep_reloading(self) -> None:
        while True:
            await asyncio.sleep(_RELOAD_EVERY_S)
            self._current.reload()


class ReplicaMetrics:
    """What one replica counts."""

    def __init__(self, metrics: CollectorRegistry, current: ReloadingModel) -> None:
        self.requests = Counter("model_requests", "Predictions by outcome.", ["outcome"], registry=metrics)
        self.fallbacks = Counter("model_fallbacks", "Predictions from last known features.", registry=metrics)
        Gauge("model_version", "Version served.", registry=metrics).set_function(lambda: current.version)
        for outcome in ("ok", "error"):
            self.requests.labels(outcome)
