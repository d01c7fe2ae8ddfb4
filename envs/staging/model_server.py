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
from .registry import Registry
from .retries import Budgeted, Endless
from .rollout import AtOnce, Canary, Release, Rollout, require_answer
from .tracing import Tracing, fail, note

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
        verified: whether a model must fit its checksum to be served.
        canary: whether a new model is tried out before it serves.
        answers_to_be_well: whether a replica must be able to answer to count as well.
        feature_timeout_s: how long it waits for features, seconds; None: for ever.
        budgeted_retries: whether it asks for features again within limits; without end if not.
        seed: of the pauses between attempts.
        traces: folder in which it records what it does for traced requests; None: it does not.
        known_features: file in which replicas that wait only so long keep what they know; None: they do not.
    """

    registry: Path
    announcements: Path
    log: Path
    features_url: str
    verified: bool
    canary: bool
    answers_to_be_well: bool
    feature_timeout_s: float | None
    budgeted_retries: bool
    seed: int
    traces: Path | None = None
    known_features: Path | None = None


class ReloadingModel:
    """Follows a registry; a damaged version is passed over and the last good one stays.

    Args:
        registry: where models are published.
        rollout: decides which of them answers.
        verified: whether a model must fit its checksum.
    """

    def __init__(self, registry: Registry, rollout: Rollout, *, verified: bool) -> None:
        self._registry = registry
        self._rollout = rollout
        self._verified = verified
        self._looked_at: object = None

    @property
    def version(self) -> int:
        """The version that serves, 0 before there was one."""
        return self._rollout.serving.version if self._rollout.serving is not None else 0

    def reload(self) -> None:
        """Offers the current version, once; with nothing to serve yet, the newest good one before it will do."""
        # First how it is pointed, then where to: between the two it may change, and is then looked at once more.
        pointed = self._registry.pointed()
        version = self._registry.current_version()
        if version is None or (pointed, version) == self._looked_at:
            return
        if self._offer(version):
            self._looked_at = pointed, version
        if self._rollout.serving is None and self._verified:
            for older in reversed([number for number in self._registry.versions() if number < version]):
                if self._offer(older):
                    return

    def _offer(self, version: int) -> bool:
        try:
            self._rollout.offer(Release(version, self._registry.load(version, verified=self._verified)))
        except DamagedFile as error:
            _log.warning("keeping model version %d: %s", self.version, error)
            return False
        return True


class ModelServer:
    """Answers predictions; one per replica. It is made inside of the event loop that it will run in."""

    def __init__(self, settings: ModelServerSettings) -> None:
        log_to(settings.log)
        self._tracing = Tracing(MODEL_SERVER, settings.traces)
        self._rollout: Rollout = Canary() if settings.canary else AtOnce()
        self._current = ReloadingModel(Registry(settings.registry), self._rollout, verified=settings.verified)
        self._current.reload()
        metrics = new_metrics()
        self._metrics = ReplicaMetrics(metrics, self._current, self._rollout)
        self._tasks = [asyncio.create_task(self._keep_reloading())]
        self._features = self._feature_source(settings, FetchMetrics(metrics))
        announce(settings.announcements, MODEL_SERVER, export_in_thread(metrics))

    async def __call__(self, request: Request) -> JSONResponse:
        """Answers `{"entity": N}` with a label, its score, and where they came from."""
        with self._tracing.hop("predict", request.headers):
            entity = int((await request.json())["entity"])
            answer = await self._predict(entity)
            if "error" in answer:
                fail(str(answer["error"]))
        self._metrics.requests.labels("error" if "error" in answer else "ok").inc()
        return JSONResponse(answer, status_code=500 if "error" in answer else 200)

    async def _predict(self, entity: int) -> dict[str, object]:
        if self._rollout.serving is None:
            return {"error": "no model could be loaded"}
        try:
            features = await self._features.fetch(entity)
        except FeaturesUnavailable as error:
            return {"error": str(error)}
        if features.fallback:
            self._metrics.fallbacks.inc()
        prediction, version = self._rollout.predict(features.values[np.newaxis])
        note({"model.version": version, "features.fallback": features.fallback})
        return {
            "label": int(prediction.labels[0]),
            "score": float(prediction.scores[0]),
            "model_version": version,
            "fallback": features.fallback,
            "feature_age_s": features.age_s,
        }

    def _feature_source(self, settings: ModelServerSettings, metrics: FetchMetrics) -> Bounded | Patient:
        session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        retries = Budgeted(random.Random(settings.seed)) if settings.budgeted_retries else Endless()
        if settings.feature_timeout_s is None:
            return Patient(session, settings.features_url, retries, metrics)
        source = Bounded(
            session, settings.features_url, settings.feature_timeout_s, retries, metrics, settings.known_features
        )
        self._tasks.append(asyncio.create_task(source.warm_up()))
        return source

    async def _keep_reloading(self) -> None:
        while True:
            await asyncio.sleep(_RELOAD_EVERY_S)
            self._current.reload()


class AnsweringModelServer(ModelServer):
    """A model server that is well only if it can answer.

    It asks its own model and not the feature store: a health check that fails with a dependency would take down every
    replica at once, and with them whatever they could still answer.
    """

    def check_health(self) -> None:
        """Answers one request with whatever model there is; Ray Serve calls this, and replaces a replica that raises.

        Raises:
            LookupError: there is no model to answer with.
        """
        require_answer(self._rollout)


class ReplicaMetrics:
    """What one replica counts."""

    def __init__(self, metrics: CollectorRegistry, current: ReloadingModel, rollout: Rollout) -> None:
        self.requests = Counter("model_requests", "Predictions by outcome.", ["outcome"], registry=metrics)
        self.fallbacks = Counter("model_fallbacks", "Predictions from last known features.", registry=metrics)
        Gauge("model_version", "Version served.", registry=metrics).set_function(lambda: current.version)
        rejected = Gauge("model_rejected", "Versions rolled back after a trial.", registry=metrics)
        rejected.set_function(lambda: rollout.rejected)
        for outcome in ("ok", "error"):
            self.requests.labels(outcome)
