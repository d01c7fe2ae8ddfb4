"""A Prometheus that scrapes the cluster, asked once per period for everything that is to be known.

Prometheus answers with the newest sample it has, however old, and its clock is not ours. So every value is asked for
together with the time of its oldest sample, and only the difference to Prometheus' own present is believed: that is
the age of the value, whatever either clock says. Where no answer comes, or one without sense, everything is unknown.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import requests
from prometheus_api_client.exceptions import PrometheusApiClientException
from prometheus_api_client.prometheus_connect import PrometheusConnect
from urllib3 import Retry

from actuators.clock import Clock
from actuators.errors import BackburnError

from .alerts import WATCHDOG, Alert, known
from .promql import AlertQueries, Query
from .snapshot import Snapshot

_REMEMBERED = 64
_VALUE_OF, _MEASURED_OF = "value_of", "measured_of"
_RULES = "ALERTS"


class NoAnswer(BackburnError):
    """Prometheus did not answer in time, or with something else than an answer."""


class Server(Protocol):
    """Whoever answers questions in PromQL."""

    def ask(self, question: str) -> object:
        """Returns the elements of the answer, unchecked.

        Raises:
            NoAnswer: there was none.
        """
        ...

    def close(self) -> None:
        """Closes what is open."""
        ...


class Connection:
    """Asks a Prometheus server over HTTP.

    Args:
        url: of the server, without `/api/v1`.
        timeout_s: how long an answer may take, seconds.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        self._url = url.rstrip("/")
        # No retries: the library's own would hold an answer back for seconds, and the next period asks again anyway.
        self._api = PrometheusConnect(
            self._url,
            method="POST",
            session=_FormSession(),
            timeout=timeout_s,  # type: ignore[arg-type]  # what is handed on to requests may well be a float
            retry=Retry(total=0),
        )
        self._server_timeout = {"timeout": f"{round(1000 * timeout_s)}ms"}

    def ask(self, question: str) -> object:
        """Asks one question and returns the elements of the answer, unchecked.

        Raises:
            NoAnswer: there was none.
        """
        try:
            return self._api.custom_query(question, self._server_timeout)
        except PrometheusApiClientException as error:
            raise NoAnswer(f"Prometheus at {self._url} refuses: {str(error)[:200]}") from error
        except (requests.JSONDecodeError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise NoAnswer(f"what answers at {self._url} is no Prometheus ({type(error).__name__})") from error
        except requests.RequestException as error:
            raise NoAnswer(f"Prometheus at {self._url} does not answer ({type(error).__name__})") from error

    def close(self) -> None:
        """Closes what is open."""
        self._api.close()


class Prometheus:
    """Turns the answers of a Prometheus server into snapshots.

    A snapshot bears the time of its newest measurement. A series whose oldest sample has passed the age is absent.

    Args:
        server: who is asked.
        catalogue: every series, and the query for it.
        clock: the cluster's.
        max_age_s: how old a measurement may be, seconds.
        alerts: how to ask which alerts fire; None: nobody can tell.
    """

    def __init__(
        self,
        server: Server,
        catalogue: Mapping[str, Query],
        clock: Clock,
        *,
        max_age_s: float,
        alerts: AlertQueries | None = None,
    ) -> None:
        self._server = server
        self._question = question(catalogue, alerts)
        self._clock = clock
        self._max_age_s = max_age_s
        self._translated = Translation()

    def round(self) -> Snapshot:
        """Asks once for everything."""
        asked_s = self._clock.now().boottime_s
        try:
            elements = self._server.ask(self._question)
        except NoAnswer:
            return Snapshot(asked_s, {})
        answer = measurements(elements)
        measured_s = self._translated.to_boot_time(answer, asked_s)
        oldest_s = self._clock.now().boottime_s - self._max_age_s
        fresh = {series: at_s for series, at_s in measured_s.items() if at_s >= oldest_s}
        alerts = known(firing(elements)) if fresh.pop(_RULES, None) is not None else None
        values = {series: answer[series].value for series in fresh}
        return Snapshot(max(fresh.values(), default=asked_s), values, alerts)

    def close(self) -> None:
        """Closes the way to the server."""
        self._server.close()


@dataclass(frozen=True, slots=True)
class Measurement:
    """One value, as Prometheus tells it.

    Attributes:
        value: the value.
        at_s: when the oldest sample behind it was taken, Unix time on Prometheus' clock, seconds.
        told_s: when Prometheus said so, on the same clock.
    """

    value: float
    at_s: float
    told_s: float


class Translation:
    """Tells when, on the cluster's clock, something was measured on Prometheus' clock.

    If Prometheus' clock steps back it holds samples of the future, shows old ones as new, and takes no new ones until
    it has caught up. So the age that Prometheus tells is believed of what is newer than anything seen so far; the rest
    is placed by what has been seen.
    """

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque(maxlen=_REMEMBERED)  # Prometheus' time and ours, ascending

    def to_boot_time(self, answer: Mapping[str, Measurement], asked_s: float) -> dict[str, float]:
        """Returns the time of each measurement, given when the question was asked, both on the cluster's clock."""
        translated = {series: self._one(measurement, asked_s) for series, measurement in answer.items()}
        newest = max(answer, key=lambda series: answer[series].at_s, default=None)
        if newest is not None and (not self._seen or answer[newest].at_s > self._seen[-1][0]):
            self._seen.append((answer[newest].at_s, translated[newest]))
        return translated

    def _one(self, measurement: Measurement, asked_s: float) -> float:
        not_older = [seen_s - (at_s - measurement.at_s) for at_s, seen_s in self._seen if at_s >= measurement.at_s]
        return min(not_older, default=asked_s - max(0.0, measurement.told_s - measurement.at_s))


def question(catalogue: Mapping[str, Query], alerts: AlertQueries | None = None) -> str:
    """Returns one question for all series: an element with the value of each, and one with its time.

    Whether rules are evaluated is asked for like one more series; every alert that fires is an element of its own.
    """
    parts = [] if alerts is None else [alerts.firing]
    rules = {} if alerts is None else {_RULES: alerts.watched}
    for series, query in {**catalogue, **rules}.items():
        parts.append(f'label_replace({query.value}, "{_VALUE_OF}", "{series}", "", "")')
        parts.append(f'label_replace({query.measured}, "{_MEASURED_OF}", "{series}", "", "")')
    return " or ".join(parts)


def measurements(elements: object) -> dict[str, Measurement]:
    """Reads the answer to `question`; what is malformed, or lacks either half, is left out."""
    values: dict[str, tuple[float, float]] = {}
    times: dict[str, tuple[float, float]] = {}
    for element in elements if isinstance(elements, list) else []:
        found = _element(element)
        if found is None:
            continue
        labels, told_s, number = found
        if _VALUE_OF in labels:
            values[labels[_VALUE_OF]] = told_s, number
        elif _MEASURED_OF in labels:
            times[labels[_MEASURED_OF]] = told_s, number
    return {
        series: Measurement(value, times[series][1], told_s)
        for series, (told_s, value) in values.items()
        if series in times
    }


def firing(elements: object) -> Iterator[Alert]:
    """Yields the alerts in the answer to `question`.

    Those of a rule that passes alerts on bear the name of what they pass on in the label `alert`. One that names no
    component belongs to nobody here, but for the watchdog.
    """
    for element in elements if isinstance(elements, list) else []:
        found = _element(element)
        if found is not None and "alertname" in found[0]:
            labels = found[0]
            alert = Alert(labels.get("alert", labels["alertname"]), labels.get("component", ""))
            if alert.component or alert.name == WATCHDOG:
                yield alert


def _element(element: Any) -> tuple[dict[str, str], float, float] | None:  # noqa: ANN401
    try:
        told_s, text = element["value"]
        labels = {str(name): str(label) for name, label in element["metric"].items()}
        told, number = float(told_s), float(text)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError):
        return None
    return (labels, told, number) if math.isfinite(told) and math.isfinite(number) else None


class _FormSession(requests.Session):
    """Sends what the library would put into the URL as a form: many proxies cut a long URL off.

    And asks exactly the server that the settings name, whatever this machine's proxy variables and `.netrc` say.
    """

    def __init__(self) -> None:
        super().__init__()
        self.trust_env = False

    def request(self, method: Any, url: Any, params: Any = None, **others: Any) -> requests.Response:  # type: ignore[override]  # noqa: ANN401
        return super().request(method, url, data=params, **others)
