"""The data plane of a simulated cluster: how rows become features, what becomes of bad ones, and how old they grow.

Rows come in round by round; what is written of an entity stays until its next row. Where nothing can be written,
because rows are late or lost or because a gate or an alarm holds them back, features grow old.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from actuators.clock import Instant

from .document import Document

STREAM, FEATURE_PIPELINE = "stream", "feature-pipeline"
ROWS, READS, WRITES = "producer->stream", "feature-pipeline->stream", "feature-pipeline->feature-store"
ROUTES = (ROWS, READS, WRITES)
DATA_MECHANISMS = ("schema_gate", "drift_alarm", "freshness")
"""What may be absent of the data plane, each the namesake of a switch of the embedded one."""

SERIES = (
    "client/feature_age_s",
    "feature-store/stale_share",
    "stream/rows_per_s",
    "stream/lag_rows",
    "feature-pipeline/quarantined_share",
    "feature-pipeline/drift_rate",
)

_PARTITIONS = 4
_ROUND_S = 2.0
_USUAL_AGE_S = 2.5
_FRESH_FOR_S = 5.0
_ROWS_PER_S = 256.0
_ROW_BYTES = 330.0
_KEPT_BY_CORRUPT = 0.01
_KEPT_WITHOUT_A_FIELD = 0.7
_KEPT_BY_A_DEVIATION = 0.4
_SEEN_DRIFT = 0.25


class DataPlane:
    """What is in the feature store of a simulated cluster, and how old it is.

    Args:
        weak: which mechanisms are absent.
        random: draws the noise.
        period_s: time between two moves, seconds.
    """

    def __init__(self, weak: frozenset[str], random: np.random.Generator, period_s: float) -> None:
        self._weak = weak
        self._random = random
        self._period_s = period_s
        self._ages_s = [_USUAL_AGE_S] * _PARTITIONS
        self._lag_rows = 0.0
        self._damage = 0.0
        self._drifting = False
        self._quarantined = 0.0

    def move(self, world: Document, working: Mapping[str, float], edges: Mapping[str, tuple[float, float]]) -> None:
        """Moves on by one period.

        Args:
            world: the cluster's document.
            working: which share of its work each component gets done.
            edges: of each route of the data plane, how long rows are held there, seconds, and which share passes.
        """
        faults = _in_force(world)
        taken = working[STREAM] * edges[ROWS][1]
        read = working[FEATURE_PIPELINE] * edges[READS][1] * float(working[STREAM] > 0.0)
        written = edges[WRITES][1] * working["feature-store"]
        self._lag_rows = max(0.0, self._lag_rows + _ROWS_PER_S * self._period_s * taken * (1.0 if read < 0.5 else -4.0))
        good = self._sift(faults)
        flows = taken * read * written * good
        # Where a part of the rows is lost, the unluckiest entity waits for several rounds.
        usual_s = _USUAL_AGE_S + _ROUND_S * (1.0 / flows - 1.0 if flows > 0.05 else math.inf)
        usual_s += sum(wait_s for wait_s, _ in edges.values())
        late_s = [faults.get("stream_delay", 0.0), *[0.0] * (_PARTITIONS - 1)]
        self._ages_s = [
            min(age_s + self._period_s, usual_s + more_s) for age_s, more_s in zip(self._ages_s, late_s, strict=True)
        ]
        if flows > 0.05:
            renewed = min(1.0, flows * self._period_s / _ROUND_S)
            self._damage += renewed * (self._damage_of_rows(faults) - self._damage)

    def values(self, asked: float) -> dict[str, float]:
        """Returns what is measured now.

        Args:
            asked: the share of answers that are made with what the store says.
        """
        noise = [0.1 * float(draw) for draw in self._random.standard_normal(3)]
        stale = self._said_stale()
        passed_off = [age_s for age_s in self._ages_s if age_s <= _FRESH_FOR_S or "freshness" in self._weak]
        age_s = max(passed_off, default=0.0) if asked > 0.0 else 0.0
        values = {
            "client/feature_age_s": max(0.0, age_s + noise[0] * bool(age_s)),
            "feature-store/stale_share": stale,
            "stream/rows_per_s": max(0.0, _ROWS_PER_S * (1.0 + 0.1 * noise[1])),
            "stream/lag_rows": max(0.0, self._lag_rows + 64.0 * (1.0 + noise[2])),
            "feature-pipeline/quarantined_share": self._quarantined,
        }
        if "drift_alarm" not in self._weak:
            values["feature-pipeline/drift_rate"] = float(self._drifting)
        return values

    @property
    def kept(self) -> float:
        """Which share of right answers stays right with what is in the store."""
        return 1.0 - self._damage

    def alerts(self) -> list[tuple[str, str, str]]:
        """Returns the alerts that fire: name, component, and the component that tells of it for as long as it can."""
        firing = [("FeatureDrift", STREAM, FEATURE_PIPELINE)] if self._drifting else []
        return firing + ([("StaleFeatures", "feature-store", "feature-store")] if self._said_stale() > 0.0 else [])

    def _said_stale(self) -> float:
        if "freshness" in self._weak:
            return 0.0
        return sum(age_s > _FRESH_FOR_S for age_s in self._ages_s) / _PARTITIONS

    def _sift(self, faults: Mapping[str, float]) -> float:
        """Decides what is believed; returns the share of rows that is written."""
        gated = "schema_gate" not in self._weak
        refused = max(faults.get("corrupt_rows", 0.0), float("schema_change" in faults)) if gated else 0.0
        self._quarantined = refused
        self._drifting = "drift_alarm" not in self._weak and faults.get("drift", 0.0) >= _SEEN_DRIFT
        return 0.0 if self._drifting else 1.0 - refused

    def _damage_of_rows(self, faults: Mapping[str, float]) -> float:
        """Returns how often an answer from a row that is written now is wrong, beyond what is usual."""
        kept = 1.0
        if "schema_gate" in self._weak:
            kept *= 1.0 - faults.get("corrupt_rows", 0.0) * (1.0 - _KEPT_BY_CORRUPT)
            fields = faults.get("schema_change", 0.0)
            kept *= max(0.25, 1.0 - 2.0 * fields * _KEPT_WITHOUT_A_FIELD)
        if not self._drifting:
            kept *= max(0.25, _KEPT_BY_A_DEVIATION ** faults.get("drift", 0.0))
        return 1.0 - kept


def let_go_of_expired(world: Document, now: Instant) -> None:
    """Takes out of a world what has reached its deadline."""
    for injection, feeds in list(world["disturbances"].items()):
        live = {feed: found for feed, found in feeds.items() if not Instant(**found["until"]).reached(now)}
        world["disturbances"][injection] = live


def edges_of(world: Document) -> dict[str, tuple[float, float]]:
    """Returns, per route of the data plane, how long rows are held there, seconds, and which share of them passes."""
    edges = dict.fromkeys(ROUTES, (0.0, 1.0))
    for routes in world["impairments"].values():
        for route, found in routes.items():
            if route in edges:
                found["affected"] += 1
                wait_s, passing = edges[route]
                held_s, passes = _felt(str(found["effect"]), float(found["amount"]))
                edges[route] = max(wait_s, held_s), min(passing, passes)
    return edges


def _felt(effect: str, amount: float) -> tuple[float, float]:
    match effect:
        case "delay":
            return amount / 1000.0, 1.0
        case "loss":
            return 0.0, 1.0 - amount
        case "bandwidth":
            return 0.0, min(1.0, amount / (_ROWS_PER_S * _ROW_BYTES))
    return 0.0, 0.0


def _in_force(world: Document) -> dict[str, float]:
    """Returns the strongest disturbance of each effect, and counts the rows that feel it."""
    strongest: dict[str, float] = {}
    for feeds in world["disturbances"].values():
        for found in feeds.values():
            effect, amount = str(found["effect"]), float(found["amount"])
            found["affected"] += 1
            strongest[effect] = max(amount, strongest.get(effect, 0.0))
    return strongest
