"""Being told: who reads which alerts fire, and what it means that none does. What could not be read is unknown."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Gauge, start_http_server

from actuators.clock import BootClock, ManualClock
from actuators.errors import BadInput
from actuators.fault import Fault, Target
from envs.clusters.base import Component, Topology
from envs.hypothesis import Clause, Hypothesis, Mechanism, Phases, broken_clauses, outages
from envs.scoring import UNIT_WINDOWS, Record, Score, Scorer, Verdict
from envs.telemetry.alerts import WATCHDOG, Alert, Spell, known, spells
from envs.telemetry.prometheus import Connection, Prometheus, firing
from envs.telemetry.promql import AlertQueries, Exporters
from envs.telemetry.reading import Answering
from envs.telemetry.scrape import Exporter, Scraper
from envs.telemetry.snapshot import Snapshot
from envs.telemetry.targets import TargetsFile
from envs.windows import Calibration, Shape, window_medians
from tests.prometheus import real_prometheus
from tests.test_envs_prometheus import JSON
from tests.waiting import wait_until

WITHIN_S = 6.0
OWES = Clause("web/up", Mechanism.SILENT, must="alert", at_least=1.0, within_s=WITHIN_S)
PAUSE = Fault("pod.pause", Target("web"), 0.25, 12.0)
DOWN = Alert("ComponentDown", "web")
NONE: frozenset[Alert] = frozenset()
PHASES = Phases(100.0, 112.0, 112.5, 121.0)

# ---- the clause -----------------------------------------------------------------------------------------------------


def seen(outage_s: float, alerts, *, missing: bool = False) -> list[Snapshot]:
    """Returns an experiment in which the target is dark from the injection; `alerts(t)` says what fires."""
    found = []
    for i in range(67):
        at_s = 88.0 + 0.5 * i
        dark = 100.0 < at_s <= 100.0 + outage_s
        values = {"client/error_share": 0.0, "web/cpu_share": 0.01, "web/up": 0.0 if dark else 1.0}
        if dark and missing:
            del values["web/up"]
        found.append(Snapshot(at_s, values, alerts(at_s)))
    return found


def told(snapshots: list[Snapshot], fault: Fault | None = PAUSE) -> list[bool | None]:
    return [outage.told for outage in outages(OWES, snapshots, PHASES, fault)]


@given(
    outage_s=st.integers(0, 24).map(lambda halves: halves / 2),
    fires_after_s=st.none() | st.integers(0, 24).map(lambda halves: halves / 2),
    missing=st.booleans(),
)
def test_silent_is_who_is_out_for_too_long_and_never_named(outage_s, fires_after_s, missing):
    def alerts(at_s):
        return frozenset({DOWN}) if fires_after_s is not None and at_s > 100.0 + fires_after_s else NONE

    snapshots = seen(outage_s, alerts, missing=missing)
    # The first sample of an outage comes half a second after the injection.
    owed = outage_s - 0.5 > WITHIN_S
    named = fires_after_s is not None and fires_after_s < outage_s
    silent = [one.mechanism for one in broken_clauses(Hypothesis((OWES,)), snapshots, PHASES, fault=PAUSE)]
    assert silent == ([Mechanism.SILENT] if owed and not named else [])


@given(readable_until_s=st.integers(0, 12).map(lambda halves: 100.0 + halves / 2))
def test_alerts_that_could_not_be_read_are_unknown_and_never_none(readable_until_s):
    """Who has looked only before an alarm was due cannot say that none came."""
    snapshots = seen(12.0, lambda at_s: NONE if at_s <= readable_until_s else None)
    assert told(snapshots) == [None]
    assert broken_clauses(Hypothesis((OWES,)), snapshots, PHASES, fault=PAUSE) == []


@given(unreadable=st.sets(st.integers(0, 66)))
def test_an_alert_that_was_seen_once_was_an_alert(unreadable):
    def alerts(at_s):
        number = round((at_s - 88.0) * 2)
        return None if number in unreadable and number != 40 else frozenset({DOWN}) if number == 40 else NONE

    assert told(seen(12.0, alerts)) == [True]


def test_an_alert_about_somebody_else_tells_nobody():
    assert told(seen(12.0, lambda at_s: frozenset({Alert("ComponentDown", "gateway")}))) == [False]


def test_neither_a_sham_nor_a_bystander_owes_an_alarm():
    quiet = seen(12.0, lambda at_s: NONE)
    assert told(quiet) == [False]
    assert told(quiet, None) == []
    assert told(quiet, Fault("pod.pause", Target("gateway"), 0.25, 12.0)) == []


def test_what_no_fault_explains_is_unknown_and_no_outage():
    """Delaying a component's traffic does not blind its exporter: if it is blind, nobody knows why."""
    delay = Fault("network.delay", Target("web"), 1.0, 12.0)
    assert told(seen(12.0, lambda at_s: NONE, missing=True), delay) == []
    assert told(seen(12.0, lambda at_s: NONE), delay) == [False]


@pytest.mark.parametrize(
    "wrong",
    [
        {"mechanism": Mechanism.SLOW, "must": "alert", "at_least": 1.0, "within_s": 6.0},
        {"mechanism": Mechanism.SILENT, "at_least": 1.0},
        {"mechanism": Mechanism.SILENT, "must": "alert", "at_least": 1.0},
    ],
)
def test_a_clause_that_means_nothing_is_refused(wrong):
    with pytest.raises(BadInput, match="the clause on web/up"):
        Clause("web/up", **wrong)


# ---- the verdict ----------------------------------------------------------------------------------------------------

SERIES = ("client/error_share", "web/up", "web/cpu_share")
PROMISES = Hypothesis((Clause("client/error_share", Mechanism.UNAVAILABLE, at_most=0.1), OWES))
TOPOLOGY = Topology([Component("web", "web", 1)], {"client": ("web",)})
SHAPE = Shape(window_s=3.0, reference=4, samples=6)


def judged(snapshots: list[Snapshot]) -> Score:
    windows = 24 + SHAPE.reference + UNIT_WINDOWS - 1
    well = [
        Snapshot(0.5 * i, {"client/error_share": 0.0, "web/up": 1.0, "web/cpu_share": 0.01 + 0.001 * (i % 7)}, NONE)
        for i in range(1, 6 * windows + 1)
    ]
    calibration = Calibration(SERIES, SHAPE)
    calibration.add(window_medians(well, SERIES, 0.0, SHAPE))
    return Scorer(calibration, PROMISES).score(Record(PAUSE, True, snapshots, PHASES), TOPOLOGY)


def test_silence_is_a_weakness_by_the_p_of_the_target_itself():
    score = judged(seen(12.0, lambda at_s: NONE))
    assert score.evidence.verdict is Verdict.WEAKNESS
    assert score.broken[0].mechanism is Mechanism.SILENT
    assert score.evidence.p == score.evidence.p_floor < 0.05
    assert score.evidence.silent is True
    assert "no alert fired" in score.reason


def test_being_told_is_resilience():
    score = judged(seen(12.0, lambda at_s: frozenset({DOWN}) if at_s > 103.0 else NONE))
    assert score.evidence.verdict is Verdict.RESILIENT
    assert score.evidence.silent is False


def test_not_knowing_whether_anybody_was_told_is_invalid():
    score = judged(seen(12.0, lambda at_s: None))
    assert score.evidence.verdict is Verdict.INVALID
    assert "nobody can tell whether an alert fired" in score.reason
    assert score.evidence.silent is None


def test_silence_takes_no_precedence_over_what_clients_feel():
    failing = [
        Snapshot(s.at_s, {**s.values, "client/error_share": 1.0 if 100.0 < s.at_s <= 112.0 else 0.0}, s.alerts)
        for s in seen(12.0, lambda at_s: NONE)
    ]
    assert [one.mechanism for one in judged(failing).broken] == [Mechanism.UNAVAILABLE, Mechanism.SILENT]


# ---- knowing what fires ---------------------------------------------------------------------------------------------

ALERTS = st.frozensets(st.builds(Alert, st.sampled_from(["A", "B"]), st.sampled_from(["web", "trainer"])))


@given(ALERTS)
def test_without_a_watchdog_nobody_can_tell(alerts):
    assert known(alerts) is None
    assert known(alerts | {Alert(WATCHDOG, "monitor")}) == alerts


@given(st.lists(st.none() | ALERTS, max_size=12))
def test_spells_cover_whatever_was_seen_and_nothing_else(rounds):
    found = spells(enumerate(rounds))
    for at_s, alerts in enumerate(rounds):
        if alerts is not None:
            assert {spell.alert for spell in found if spell.from_s <= at_s <= spell.until_s} == alerts


def test_what_nobody_could_see_in_between_interrupts_nothing():
    one = frozenset({DOWN})
    assert spells([(0.0, NONE), (1.0, one), (2.0, None), (3.0, one), (4.0, NONE), (5.0, one)]) == [
        Spell(DOWN, 1.0, 3.0),
        Spell(DOWN, 5.0, 5.0),
    ]


# ---- direct scraping ------------------------------------------------------------------------------------------------


@contextmanager
def exporting(owner: str) -> Iterator[tuple[Gauge, Gauge, Exporter]]:
    """Serves alerts with and without the name of a component."""
    registry = CollectorRegistry()
    named = Gauge("alert_firing", "x", ["alert", "component"], registry=registry)
    others = Gauge("component_expected", "x", ["component"], registry=registry)
    server, thread = start_http_server(0, "127.0.0.1", registry)
    yield named, others, Exporter(owner, f"http://127.0.0.1:{server.server_port}/metrics")
    server.shutdown()
    server.server_close()
    thread.join()


def test_scraping_adds_up_the_alerts_of_all_exporters():
    with exporting("monitor") as (monitors, _, monitor), exporting("web") as (own, _, web):
        scraper = Scraper(lambda: [monitor, web], {"web/up": ("web", Answering())}, BootClock(), timeout_s=5.0)
        own.labels("Stale", "web").set(1.0)
        monitors.labels("ComponentDown", "web").set(0.0)
        assert scraper.round().alerts is None, "no watchdog"
        monitors.labels(WATCHDOG, "monitor").set(1.0)
        assert scraper.round().alerts == {Alert("Stale", "web")}
        monitors.labels("ComponentDown", "trainer").set(1.0)
        assert scraper.round().alerts == {Alert("Stale", "web"), Alert("ComponentDown", "trainer")}
        scraper.close()


def test_scraping_tells_the_absent_from_the_blind():
    """That one exporter is away is known as long as another answers; if none does, nobody knows anything."""
    with exporting("monitor") as (monitors, _, monitor):
        monitors.labels(WATCHDOG, "monitor").set(1.0)
        exporters = [monitor, Exporter("web", "http://127.0.0.1:1/metrics")]
        scraper = Scraper(lambda: exporters, {"web/up": ("web", Answering())}, BootClock(), timeout_s=5.0)
        snapshot = scraper.round()
        assert (snapshot.values, snapshot.alerts) == ({"web/up": 0.0}, NONE)
        del exporters[0]
        snapshot = scraper.round()
        assert (snapshot.values, snapshot.alerts) == ({}, None)
        scraper.close()


# ---- through a Prometheus -------------------------------------------------------------------------------------------


def test_a_real_prometheus_tells_which_of_the_packaged_rules_fire(tmp_path):
    labels, max_age_s = {"cluster": "test"}, 2.0
    up = Exporters({**labels, "job": "web"}, 1.0, max_age_s).query(Answering())
    with (
        real_prometheus(tmp_path / "server", tmp_path / "targets.json") as server,
        exporting("monitor") as (_, expected, monitor),
        exporting("web") as (own, _, web),
    ):
        expected.labels("web").set(1.0)
        own.labels("Stale", "feature-store").set(0.0)
        targets = TargetsFile(tmp_path / "targets.json", labels)
        targets.write([monitor, web])
        source = Prometheus(
            Connection(server.url, 1.0),
            {"web/up": up},
            BootClock(),
            max_age_s=max_age_s,
            alerts=AlertQueries(labels, max_age_s),
        )
        assert source.round().alerts is None, "it knows nothing yet"
        wait_until(lambda: source.round() if source.round().alerts == NONE else None, within_s=20.0)
        wait_until(lambda: source.round().values == {"web/up": 1.0}, within_s=5.0)
        own.labels("Stale", "feature-store").set(1.0)
        wait_until(lambda: source.round().alerts == {Alert("Stale", "feature-store")}, within_s=5.0)
        own.labels("Stale", "feature-store").set(0.0)
        wait_until(lambda: source.round().alerts == NONE, within_s=5.0)
        targets.write([monitor])
        went_s = time.monotonic()
        wait_until(lambda: source.round().values == {"web/up": 0.0}, within_s=15.0)
        wait_until(lambda: source.round().alerts == {DOWN}, within_s=10.0)
        assert time.monotonic() - went_s >= 2.0
        server.pause()
        assert source.round().alerts is None
        server.go_on()
        wait_until(lambda: source.round().alerts == {DOWN}, within_s=5.0)
        source.close()


def alert_element(**labels: str) -> dict[str, object]:
    return {"metric": {"__name__": "ALERTS", "alertstate": "firing", **labels}, "value": [1000.0, "1"]}


def told_by(*elements: object) -> frozenset[Alert] | None:
    class Server:
        def ask(self, question):
            return list(elements)

    alerts = AlertQueries({"cluster": "test"}, 2.0)
    return Prometheus(Server(), {}, ManualClock(), max_age_s=2.0, alerts=alerts).round().alerts


EVALUATED = (
    {"metric": {"value_of": "ALERTS"}, "value": [1000.0, "1"]},
    {"metric": {"measured_of": "ALERTS"}, "value": [1000.0, "999.9"]},
)
BARKS = alert_element(alertname=WATCHDOG)


def test_alerts_are_read_from_the_answer():
    passed_on = alert_element(alertname="Reported", alert="Stale", component="feature-store")
    down = alert_element(alertname="ComponentDown", component="web")
    assert told_by(*EVALUATED, BARKS) == NONE
    assert told_by(*EVALUATED, BARKS, down, passed_on) == {DOWN, Alert("Stale", "feature-store")}
    assert told_by(*EVALUATED, BARKS, alert_element(alertname="OfNobody")) == NONE


def test_rules_that_are_not_evaluated_now_are_unknown():
    stale = ({"metric": {"measured_of": "ALERTS"}, "value": [1000.0, "997.0"]}, EVALUATED[0])
    assert told_by() is None
    assert told_by(BARKS) is None
    assert told_by(*EVALUATED) is None
    assert told_by(*stale, BARKS) is None


@given(JSON)
@example([BARKS, alert_element(alertname="OfNobody")])
def test_no_answer_breaks_the_reader_of_alerts(elements):
    found = list(firing(elements))
    for alert in found:
        assert isinstance(alert.name, str)
        assert alert.component or alert.name == WATCHDOG
    if isinstance(elements, list):  # whatever stands beside it, what is good is read
        down = alert_element(alertname="ComponentDown", component="web")
        assert list(firing([BARKS, *elements, down])) == [Alert(WATCHDOG, ""), *found, DOWN]
