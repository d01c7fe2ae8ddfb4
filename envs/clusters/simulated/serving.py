"""The requests of a simulated cluster: where they wait, are lost, tried again, turned away, and answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from .data import DataPlane
from .document import REQUEST_ROUTES, Document, alive, cpu_left
from .models import Models

_TIMEOUT_MS = 100.0
_CLIENT_TIMEOUT_MS = 2000.0
_BASE_MS = 15.0
_REQUESTS_PER_S = 30.0
_REQUEST_BYTES = 150.0
_ATTEMPT_MS = 2.0
_RETRY_BUDGET = 0.1
_ANSWERS_PER_S: Final[Mapping[str, float]] = {"gateway": 400.0, "model-server": 137.0, "feature-store": 700.0}
_UPKEEP: Final[Mapping[str, float]] = {"model-server": 0.056}
"""Cores that an instance needs for itself: what keeps two embedded replicas with 8 % each at a fifth of the load."""
_LONGEST_LINE = _REQUESTS_PER_S * _CLIENT_TIMEOUT_MS / 1000.0  # who has waited so long, has left
_MOST_IN_FLIGHT = 12.0
_REFUSAL_MS = 2.0
_FALLBACK_KEEPS = 0.98


@dataclass(frozen=True, slots=True)
class _Edge:
    """What requests on a dependency edge meet: how long they wait, which share is lost, whether none passes."""

    wait_ms: float
    lost: float
    cut: bool


@dataclass(frozen=True, slots=True)
class _Fetch:
    """What came of asking for features: shares of requests answered and answered from memory, time, attempts each."""

    answered: float
    fallback: float
    wait_ms: float
    attempts: float


class Serving:
    """What becomes of requests, from the client to the feature store and back.

    Attributes:
        in_flight: how many are under way at the gateway.

    Args:
        weak: which mechanisms are absent.
        random: draws the noise.
        period_s: time between two moves, seconds.
    """

    def __init__(self, weak: frozenset[str], random: np.random.Generator, period_s: float) -> None:
        self.in_flight = 0.0
        self._weak, self._random, self._period_s = weak, random, period_s
        self._bounded = "queue" not in weak
        self._models = Models(weak)
        self._latency_noise = 0.0
        self._backlog_bytes = dict.fromkeys(REQUEST_ROUTES, 0.0)
        self._waiting = dict.fromkeys(_ANSWERS_PER_S, 0.0)

    def move(self, world: Document, answering: Callable[[str], float], data: DataPlane) -> dict[str, float]:
        """Moves on by one period, and returns what is measured of requests.

        Args:
            world: the cluster's document.
            answering: tells which share of requests reaches an instance of a component that answers.
            data: what is in the feature store.
        """
        fetch, edge = self._fetch(world, answering("feature-store")), self._edge(world, REQUEST_ROUTES[0])
        accuracy, with_model = self._models.load(world)
        arrives = answering("gateway") * (0.0 if edge.cut else 1.0 - edge.lost)
        served = arrives * answering("model-server") * with_model
        answered = fetch.answered * served
        line_s = self._line_s(world, "gateway") + self._line_s(world, "model-server")
        total_ms = _BASE_MS + fetch.wait_ms + edge.wait_ms + 1000.0 * line_s
        if total_ms >= _CLIENT_TIMEOUT_MS:
            answered, total_ms = 0.0, _CLIENT_TIMEOUT_MS
        self.in_flight, shed = self._let_in(total_ms if answered > 0.0 else _CLIENT_TIMEOUT_MS, arrives)
        values = self._told(answered, shed, _REFUSAL_MS if shed > 0.5 else total_ms)
        values["model-server/fallback_share"] = fetch.fallback
        if served > 0.1:
            values["model-server/feature_attempts"] = fetch.attempts
        if answered > 0.1:
            right = accuracy * data.kept * (1.0 - (1.0 - _FALLBACK_KEEPS) * fetch.fallback)
            values |= data.values(asked=1.0 - fetch.fallback)
            values["client/accuracy"] = float(self._random.binomial(30, right)) / 30.0
        return values

    def _told(self, answered: float, shed: float, total_ms: float) -> dict[str, float]:
        """Returns what the client and the components measure of requests, with noise."""
        self._latency_noise = 0.7 * self._latency_noise + 0.1 * self._random.standard_normal()
        p50_ms = total_ms * float(np.exp(self._latency_noise)) if answered + shed > 0.5 else _CLIENT_TIMEOUT_MS
        failed = float(self._random.binomial(30, (1.0 - shed) * (1.0 - answered))) / 30.0
        return {
            "client/error_share": failed,
            "client/shed_share": shed,
            "client/answered_share": max(0.0, 1.0 - shed - failed) if answered > 0.0 else 0.0,
            "gateway/in_flight": self.in_flight,
            "client/p50_ms": p50_ms,
            "client/p90_ms": p50_ms * float(np.exp(abs(0.3 * self._random.standard_normal()))) * 1.3,
            "gateway/request_ms": p50_ms * 0.9,
            "feature-store/request_ms": 1.0 + 0.1 * float(self._random.standard_normal()),
        }

    def _let_in(self, total_ms: float, arrives: float) -> tuple[float, float]:
        """Returns how many requests are under way at the gateway, and which share of all it turns away."""
        came = _REQUESTS_PER_S * arrives * total_ms / 1000.0
        if not self._bounded or came <= _MOST_IN_FLIGHT:
            return came, 0.0
        return _MOST_IN_FLIGHT, arrives * (1.0 - _MOST_IN_FLIGHT / came)

    def _fetch(self, world: Document, store_answers: float) -> _Fetch:
        """Follows a request from the model server to the feature store: tries, tries again, waits, does without."""
        edge = self._edge(world, REQUEST_ROUTES[1])
        dead = not alive(world, "feature-store")
        fails = 0.0 if edge.cut else 1.0 if dead else edge.lost
        hangs = 1.0 if edge.cut else 0.0 if dead else 1.0 - store_answers
        bounded = "feature_timeout" not in self._weak
        patience_ms = _TIMEOUT_MS if bounded else _CLIENT_TIMEOUT_MS
        attempts, fails = self._tries(fails, patience_ms)
        in_vain = hangs > 0.5 or (fails == 1.0 and "retries" in self._weak)
        wait_ms = patience_ms if in_vain else edge.wait_ms + 1000.0 * self._line_s(world, "feature-store")
        answered = (1.0 - fails) * (1.0 - hangs)
        if not bounded:
            return _Fetch(answered, 0.0, wait_ms, attempts)
        fallback = 1.0 if wait_ms > _TIMEOUT_MS else 1.0 - answered
        return _Fetch(1.0, fallback, min(wait_ms, _TIMEOUT_MS), attempts)

    def _tries(self, fails: float, patience_ms: float) -> tuple[float, float]:
        """Returns how often a request is tried where so large a share of attempts fails, and the share that is lost."""
        if fails == 0.0:
            return 1.0, 0.0  # without a draw: what is hidden must not show in the noise of a healthy cluster
        if "retries" not in self._weak:
            again = min(fails, _RETRY_BUDGET)
            return 1.0 + float(self._random.binomial(30, again)) / 30.0, fails - again * (1.0 - fails)
        if fails < 1.0:
            return 1.0 + float(self._random.negative_binomial(30, 1.0 - fails)) / 30.0, 0.0
        return patience_ms / _ATTEMPT_MS, 1.0

    def _line_s(self, world: Document, component: str) -> float:
        """Returns how long a request waits for a component whose CPU time is too short for all of them, seconds."""
        living = alive(world, component)
        left = sum(cpu_left(world, name) for name in living)
        if left in {0.0, len(living)}:
            self._waiting[component] = 0.0  # what is dead or hung is told by `_answering`
            return 0.0
        upkeep = _UPKEEP.get(component, 0.0)
        per_s = _ANSWERS_PER_S[component] * sum(max(0.0, cpu_left(world, name) - upkeep) for name in living)
        grown = self._waiting[component] + (_REQUESTS_PER_S - per_s) * self._period_s
        longest = _MOST_IN_FLIGHT if self._bounded and component == "model-server" else _LONGEST_LINE
        self._waiting[component] = min(max(0.0, grown), longest)
        return self._waiting[component] / per_s if per_s > 0.0 else _CLIENT_TIMEOUT_MS / 1000.0

    def _edge(self, world: Document, route: str) -> _Edge:
        """Returns what a request on a route meets now; where several faults meet, the worst of each effect counts."""
        worst: dict[str, float] = {}
        for routes in world["impairments"].values():
            for impairment in [found for found_on, found in routes.items() if found_on == route]:
                effect, amount = str(impairment["effect"]), float(impairment["amount"])
                felt = amount if effect == "loss" else 1.0
                impairment["affected"] += round(felt * _REQUESTS_PER_S * self._period_s)
                harsher = min if effect == "bandwidth" else max
                worst[effect] = harsher(amount, worst.get(effect, amount))
        wait_ms = max(worst.get("delay", 0.0), self._queue_ms(route, worst.get("bandwidth", np.inf)))
        return _Edge(wait_ms=wait_ms, lost=worst.get("loss", 0.0), cut="partition" in worst)

    def _queue_ms(self, route: str, bytes_per_s: float) -> float:
        """Returns how long a request waits for its turn on a narrow edge, whose queue grows while it is too narrow."""
        came = (_REQUESTS_PER_S * _REQUEST_BYTES - bytes_per_s) * self._period_s
        longest = _MOST_IN_FLIGHT * _REQUEST_BYTES if self._bounded and route == REQUEST_ROUTES[0] else np.inf
        self._backlog_bytes[route] = min(max(0.0, self._backlog_bytes[route] + came), longest)
        return 1000.0 * (self._backlog_bytes[route] + _REQUEST_BYTES) / bytes_per_s
