"""Direct scraping: exporters in Prometheus' text format, asked twice a second.

An exporter that does not answer in time has *no* samples in that round, and the series that need it are absent from the
snapshot. What stays silent is unknown.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import urllib3
from prometheus_client.parser import text_string_to_metric_families

from actuators.clock import Clock

from .alerts import Alert, known
from .reading import Change, Reading, Samples
from .snapshot import Snapshot

_THREADS = 8
_ALERT_METRIC = "alert_firing"


@dataclass(frozen=True, slots=True)
class Exporter:
    """One place to ask.

    Attributes:
        owner: whose samples they are: a component or an observer.
        url: where they are.
    """

    owner: str
    url: str


@dataclass(frozen=True, slots=True)
class Look:
    """What one exporter answered at one moment."""

    at_s: float
    samples: Samples


class Scraper:
    """Asks exporters and turns what they say into snapshots.

    Args:
        exporters: returns whom to ask; asked anew every round, for replicas come and go.
        readings: per series, whose exporters are asked and how their samples are read.
        clock: stamps the snapshots.
        timeout_s: how long an exporter may take.
        over_s: the time over which counters are differentiated, seconds.
    """

    def __init__(
        self,
        exporters: Callable[[], list[Exporter]],
        readings: Mapping[str, tuple[str, Reading]],
        clock: Clock,
        *,
        timeout_s: float = 0.4,
        over_s: float = 1.0,
    ) -> None:
        self._exporters = exporters
        self._readings = readings
        self._clock = clock
        self._over_s = over_s
        self._looks: dict[Exporter, deque[Look]] = {}
        self._http = urllib3.PoolManager(
            num_pools=32, maxsize=2, timeout=urllib3.Timeout(timeout_s), retries=False, block=False
        )
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="scrape")

    def round(self) -> Snapshot:
        """Asks everybody once and returns what is known then.

        The snapshot bears the time of the questions: one exporter that hangs must not make all others look late.
        """
        asked_s = self._clock.now().boottime_s
        exporters = self._exporters()
        answers = dict(zip(exporters, self._threads.map(self._ask, exporters), strict=True))
        self._looks = {exporter: self._remember(exporter, look) for exporter, look in answers.items()}
        changes: dict[str, list[Change]] = {}
        alerts: list[Alert] = []
        for exporter, look in answers.items():
            if look is not None:
                changes.setdefault(exporter.owner, []).append(self._change(exporter, look))
                alerts += _firing(exporter.owner, look.samples)
        if not changes:
            return Snapshot(asked_s, {})
        values = {}
        for series, (owner, reading) in self._readings.items():
            value = reading.value(changes.get(owner, ()))
            if value is not None:
                values[series] = value
        return Snapshot(asked_s, values, known(alerts))

    def close(self) -> None:
        """Ends the threads and connections."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._http.clear()

    def _ask(self, exporter: Exporter) -> Look | None:
        try:
            answer = self._http.request("GET", exporter.url)
            if answer.status != 200:
                return None
            return Look(self._clock.now().boottime_s, parsed(answer.data.decode()))
        except (urllib3.exceptions.HTTPError, ValueError):
            return None

    def _remember(self, exporter: Exporter, look: Look | None) -> deque[Look]:
        looks = self._looks.get(exporter, deque())
        if look is not None:
            looks.append(look)
        # The nearest look, not the first old enough: rounds come a little early or late, and every other change would
        # then be over one round more. An outage of seconds is seen for as long as it outlasts this time.
        while len(looks) > 2 and self._is_nearer(looks[-1].at_s - looks[1].at_s, looks[-1].at_s - looks[0].at_s):
            looks.popleft()
        return looks

    def _is_nearer(self, age_s: float, than_s: float) -> bool:
        return abs(age_s - self._over_s) <= abs(than_s - self._over_s)

    def _change(self, exporter: Exporter, look: Look) -> Change:
        first = self._looks[exporter][0]
        return Change(first.samples, look.samples, look.at_s - first.at_s)


def _firing(owner: str, samples: Samples) -> Iterator[Alert]:
    """Yields the alerts that an exporter says are firing; those that name no component are about its owner."""
    for key, value in samples.get(_ALERT_METRIC, {}).items():
        labels = dict(key)
        if value > 0 and "alert" in labels:
            yield Alert(labels["alert"], labels.get("component", owner))


def parsed(text: str) -> Samples:
    """Parses Prometheus' text format.

    Raises:
        ValueError: the text is not in that format.
    """
    samples: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return samples
