"""How a metric is read from counters, gauges and histograms.

A reading is data: what to take and how to combine it. Direct scraping evaluates it on two looks at an exporter; a
Prometheus query can be written from the same fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

Labels: TypeAlias = frozenset[tuple[str, str]]
Samples: TypeAlias = Mapping[str, Mapping[Labels, float]]
"""One exporter's samples: name to labels to value."""


@dataclass(frozen=True, slots=True)
class Change:
    """What one exporter showed at two moments.

    Attributes:
        before: the earlier samples.
        after: the newer samples.
        seconds: the time between.
    """

    before: Samples
    after: Samples
    seconds: float

    def increase(self, name: str, labels: Mapping[str, str]) -> float | None:
        """Returns by how much matching counters grew, None if there is none or one of them was reset."""
        before = self.before.get(name, {})
        # A labelled counter appears with its first event; until then it stood at 0.
        grown = [value - before.get(key, 0.0) for key, value in _matching(self.after, name, labels)]
        return sum(grown) if grown and min(grown) >= 0 else None


@dataclass(frozen=True, slots=True)
class Gauge:
    """The newest value of a gauge, summed over exporters and matching labels."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    scale: float = 1.0

    def value(self, changes: Sequence[Change]) -> float | None:
        """Returns the value, None when no exporter shows it."""
        found = [value for change in changes for _, value in _matching(change.after, self.name, self.labels)]
        return sum(found) * self.scale if found else None


@dataclass(frozen=True, slots=True)
class Rate:
    """Growth of a counter per second, summed over exporters."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)

    def value(self, changes: Sequence[Change]) -> float | None:
        """Returns the rate, None when no exporter shows the counter twice."""
        rates = [
            grown / change.seconds
            for change in changes
            if change.seconds > 0 and (grown := change.increase(self.name, self.labels)) is not None
        ]
        return sum(rates) if rates else None


@dataclass(frozen=True, slots=True)
class Ratio:
    """Growth of one counter as a share of the growth of another.

    Attributes:
        part: the counter above the line, and `part_labels` its labels; several label sets are added up.
        whole: the counter below the line.
        least: growth of `whole` under which the share is unknown.
    """

    part: str
    whole: str
    part_labels: Sequence[Mapping[str, str]] = ({},)
    whole_labels: Mapping[str, str] = field(default_factory=dict)
    least: float = 3.0

    def value(self, changes: Sequence[Change]) -> float | None:
        """Returns the share, None when too little happened to speak of one."""
        whole = _total(change.increase(self.whole, self.whole_labels) for change in changes)
        if whole is None or whole < self.least:
            return None
        part = _total(change.increase(self.part, labels) for change in changes for labels in self.part_labels)
        return (part or 0.0) / whole


@dataclass(frozen=True, slots=True)
class Quantile:
    """A quantile of what a histogram saw, interpolated inside its buckets.

    Attributes:
        name: the histogram, without `_bucket`.
        q: the quantile, in (0, 1).
        scale: multiplies the result, such as 1000 for seconds to milliseconds.
        least: events under which the quantile is unknown.
    """

    name: str
    q: float
    scale: float = 1.0
    least: float = 3.0

    def value(self, changes: Sequence[Change]) -> float | None:
        """Returns the quantile over all exporters, None when too little happened."""
        grown: dict[float, float] = {}
        for change in changes:
            before = change.before.get(f"{self.name}_bucket", {})
            for labels, value in change.after.get(f"{self.name}_bucket", {}).items():
                by = value - before.get(labels, 0.0)
                if by < 0:
                    return None
                bound = float(dict(labels)["le"])
                grown[bound] = grown.get(bound, 0.0) + by
        total = grown.get(float("inf"), 0.0)
        if total < self.least:
            return None
        return _interpolated(sorted(grown.items()), self.q * total) * self.scale


@dataclass(frozen=True, slots=True)
class Answering:
    """How many of the owner's exporters answered.

    0 is knowledge here: nobody of that name answered while others did. A round in which nobody answered at all says
    nothing of anybody; whoever evaluates readings leaves it out.
    """

    def value(self, changes: Sequence[Change]) -> float | None:
        """Returns the number of exporters that have just answered."""
        return float(len(changes))


Reading: TypeAlias = Gauge | Rate | Ratio | Quantile | Answering


def _interpolated(cumulative: Sequence[tuple[float, float]], rank: float) -> float:
    below, seen = 0.0, 0.0
    for bound, count in cumulative:
        if count >= rank:
            if bound == float("inf"):
                return below
            share = (rank - seen) / (count - seen) if count > seen else 1.0
            return below + (bound - below) * share
        below, seen = bound, count
    return below


def _total(parts: Iterable[float | None]) -> float | None:
    known = [part for part in parts if part is not None]
    return sum(known) if known else None


def _matching(samples: Samples, name: str, labels: Mapping[str, str]) -> Iterator[tuple[Labels, float]]:
    wanted = labels.items()
    for key, value in samples.get(name, {}).items():
        if wanted <= set(key):
            yield key, value
