"""What a reading is called in PromQL.

The queries mean what direct scraping means, so that one hypothesis holds for both. `rate()` and `increase()` do not:
over a few samples they extrapolate by up to a half, they do not see a labelled counter's first event, and they patch
over a restart. Here the growth of a counter is the plain difference of two of its samples. A counter that has appeared
on an exporter which answered before stood at 0 until then; one that has fallen was reset and is unknown.

A gauge is summed over those exporters alone that Prometheus has tried to reach lately. Of one that went away while
Prometheus itself was down it would otherwise show the last sample for five minutes; its counters show no growth anyway.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from .alerts import WATCHDOG
from .reading import Answering, Gauge, Quantile, Rate, Ratio, Reading

_INSTANCE = "on (job, instance)"


@dataclass(frozen=True, slots=True)
class Query:
    """One series, asked of Prometheus.

    Attributes:
        value: yields the value, as one element without labels; nothing where it is unknown.
        measured: yields when the oldest sample behind the value was taken, seconds of Unix time, in the same form.
    """

    value: str
    measured: str


@dataclass(frozen=True, slots=True)
class Exporters:
    """Those exporters whose samples a reading takes, as Prometheus knows them.

    Attributes:
        labels: what all their samples bear.
        over_s: the time over which counters are differentiated, seconds.
        max_age_s: how old a sample may be, seconds.
    """

    labels: Mapping[str, str]
    over_s: float
    max_age_s: float

    def query(self, reading: Reading) -> Query:
        """Returns the query that means the same as a reading of these exporters."""
        match reading:
            case Gauge():
                samples = self._samples(reading.name, reading.labels)
                return Query(f"sum({self._fresh(samples)}) * {reading.scale}", self._measured(samples))
            case Rate():
                samples = self._samples(reading.name, reading.labels)
                return Query(self._rate(samples), self._measured(samples))
            case Ratio():
                whole = self._samples(reading.whole, reading.whole_labels)
                return Query(self._ratio(reading, whole), self._measured(whole))
            case Quantile():
                events = self._samples(f"{reading.name}_bucket", {"le": "+Inf"})
                return Query(self._quantile(reading, events), self._measured(events))
            case Answering():
                return self._answering()

    def _answering(self) -> Query:
        everybody = _selector("up", {name: label for name, label in self.labels.items() if name != "job"})
        anybody = f"sum({_no_older(everybody, self.max_age_s)})"
        # A component without any target is known to be away as long as others are known to be there.
        value = f"(sum({self._fresh(self._up)}) or 0 * {anybody}) and {anybody} > 0"
        return Query(value, f"({self._measured(self._up)} or max(timestamp({everybody})))")

    def _rate(self, samples: str) -> str:
        seconds = f"(timestamp({self._up}) - timestamp({self._up}{self._before}) > 0)"
        return f"sum(({self._growth(samples)}) / {_INSTANCE} group_left () {seconds})"

    def _ratio(self, reading: Ratio, whole: str) -> str:
        # A share of which no part has happened yet is 0, provided that the whole is known.
        parts = [
            f"(sum({self._growth(self._samples(reading.part, labels))}) or vector(0))" for labels in reading.part_labels
        ]
        return f"({' + '.join(parts)}) / (sum({self._growth(whole)}) >= {reading.least})"

    def _quantile(self, reading: Quantile, events: str) -> str:
        buckets = self._growth(self._samples(f"{reading.name}_bucket", {}))
        quantile = f"histogram_quantile({reading.q}, sum by (le) ({buckets})) * {reading.scale}"
        return f"({quantile} and sum({self._growth(events)}) >= {reading.least})"

    def _growth(self, samples: str) -> str:
        born = f"{samples} * 0 and {_INSTANCE} {self._up}{self._before} == 1"
        reset = f"{_INSTANCE} {samples} < {samples}{self._before}"
        return f"{samples} - ({samples}{self._before} or {born}) unless {reset}"

    def _measured(self, samples: str) -> str:
        return f"min({self._fresh(f'timestamp({samples})')})"

    def _fresh(self, vector: str) -> str:
        return f"{vector} and {_INSTANCE} timestamp({self._up}) > time() - {self.max_age_s}"

    def _samples(self, name: str, labels: Mapping[str, str]) -> str:
        return _selector(name, {**self.labels, **labels})

    @property
    def _up(self) -> str:
        return self._samples("up", {})

    @property
    def _before(self) -> str:
        return f" offset {round(1000 * self.over_s)}ms"


@dataclass(frozen=True, slots=True)
class AlertQueries:
    """How a Prometheus that evaluates alert rules is asked which of them fire.

    Attributes:
        labels: what all alerts of the cluster bear.
        max_age_s: how old an evaluation may be, seconds.
    """

    labels: Mapping[str, str]
    max_age_s: float

    @property
    def watched(self) -> Query:
        """Yields something as long as rules are evaluated, and when they last were."""
        watchdog = _selector("ALERTS", {**self.labels, "alertname": WATCHDOG, "alertstate": "firing"})
        return Query(f"sum({watchdog})", f"min(timestamp({watchdog}))")

    @property
    def firing(self) -> str:
        """Yields every alert that fires, with all its labels."""
        # Prometheus ends an alert's series with the alert, but not those that it left behind when it was killed.
        return _no_older(_selector("ALERTS", {**self.labels, "alertstate": "firing"}), self.max_age_s)


def _no_older(vector: str, age_s: float) -> str:
    return f"{vector} and timestamp({vector}) > time() - {age_s}"


def _selector(name: str, labels: Mapping[str, str]) -> str:
    # JSON and PromQL quote strings alike.
    matchers = ",".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in labels.items())
    return f"{name}{{{matchers}}}"
