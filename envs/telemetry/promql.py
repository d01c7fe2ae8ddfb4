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

from .reading import Gauge, Quantile, Rate, Ratio, Reading

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
        # JSON and PromQL quote strings alike.
        wanted = {**self.labels, **labels}.items()
        matchers = ",".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in wanted)
        return f"{name}{{{matchers}}}"

    @property
    def _up(self) -> str:
        return self._samples("up", {})

    @property
    def _before(self) -> str:
        return f" offset {round(1000 * self.over_s)}ms"
