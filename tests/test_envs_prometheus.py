from __future__ import annotations

import json
import statistics
import time

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from actuators.clock import BootClock, ManualClock
from actuators.errors import BackburnError
from agent.build.telemetry import require_known
from agent.settings import load
from envs.telemetry.prometheus import Connection, Measurement, NoAnswer, Prometheus, Translation, measurements
from envs.telemetry.promql import Exporters, Query
from envs.telemetry.reading import Gauge, Quantile, Rate, Ratio
from envs.telemetry.scrape import Exporter, Scraper
from envs.telemetry.snapshot import Snapshot
from envs.telemetry.targets import Announced, TargetsFile
from tests.conftest import config_file
from tests.prometheus import CannedServer, Growing, answer, element, real_prometheus
from tests.waiting import wait_until

LABELS = {"cluster": "test"}
MAX_AGE_S = 2.0
ANSWERS_WITHIN_S = 5.0
NO_ANSWER_S = 0.3
"""How long an answer is waited for that does not come."""
ROUND_S = 10.0
"""How long a round may take on a busy machine, whose timeout is far below."""
OWNERS = ("client", "web", "mortal", "reborn", "shop", "nobody")
KINDS = {
    "error_share": Ratio("requests_total", "requests_total", ({"outcome": "error"}, {"outcome": "timeout"})),
    "p50_ms": Quantile("latency_seconds", 0.5, scale=1000.0),
    "p90_ms": Quantile("latency_seconds", 0.9, scale=1000.0),
    "steps_per_s": Rate("requests_total"),
    "in_flight": Gauge("level", scale=0.5),
    "ready": Gauge("nothing_of_that_name"),
}
READINGS = {f"{owner}/{metric}": (owner, reading) for owner in OWNERS for metric, reading in KINDS.items()}


def catalogue(over_s: float = 1.0) -> dict[str, Query]:
    return {
        series: Exporters({**LABELS, "job": owner}, over_s, MAX_AGE_S).query(reading)
        for series, (owner, reading) in READINGS.items()
    }


def connected(url: str, timeout_s: float) -> Prometheus:
    return Prometheus(Connection(url, timeout_s), catalogue(), BootClock(), max_age_s=MAX_AGE_S)


class Scene:
    """Exporters, a real Prometheus that scrapes them, and a source that asks it."""

    def __init__(self, folder) -> None:
        self.exporters = {name: Growing(name.rstrip("2")) for name in ("client", "web", "web2", *OWNERS[2:5])}
        self.targets = TargetsFile(folder / "targets.json", LABELS)
        self.announce()

    def announce(self) -> None:
        self.targets.write(exporter.exporter for exporter in self.exporters.values())

    def begin(self, server) -> None:
        self.server = server
        self.source = connected(server.url, 1.0)
        # Prometheus looks for new targets every five seconds, and hands them on every five seconds.
        wait_until(lambda: len(self.values()) == 5 * 5, within_s=60.0)

    def values(self) -> dict[str, float]:
        return self.source.round().values

    def seen(self, series: str, for_s: float) -> list[float | None]:
        """Returns what a series was, twice per scrape."""
        until_s, found = time.monotonic() + for_s, []
        while time.monotonic() < until_s:
            found.append(self.values().get(series))
            time.sleep(0.25)
        return found

    def typical(self, *series: str) -> dict[str, float]:
        return typical(self.source, *series)

    def gone(self, name: str) -> None:
        self.exporters.pop(name).close()

    def close(self) -> None:
        self.source.close()
        for exporter in self.exporters.values():
            exporter.close()


def typical(source, *series: str) -> dict[str, float]:
    """Returns the median of everything that is seen in several rounds; of those that know these series.

    A scrape that comes late makes a counter's growth too large, and too small a second later: in one round or two.
    """
    known = []

    def is_enough() -> bool:
        time.sleep(0.5)
        values = source.round().values
        if values.keys() >= set(series):
            known.append(values)
        return len(known) == 7

    wait_until(is_enough, within_s=30.0)
    names = {name for values in known for name in values}
    return {name: statistics.median(values[name] for values in known if name in values) for name in names}


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prometheus")
    with real_prometheus(folder / "server", folder / "targets.json") as server:
        scene = Scene(folder)
        scene.begin(server)
        yield scene
        scene.close()


# ---- a real Prometheus ----------------------------------------------------------------------------------------------


def test_values_are_those_of_direct_scraping(scene):
    client = scene.exporters["client"].exporter
    readings = {s: r for s, r in READINGS.items() if r[0] == "client"}
    known = {f"client/{metric}" for metric in KINDS if metric != "ready"}
    scraper = Scraper(lambda: [client], readings, BootClock(), timeout_s=ANSWERS_WITHIN_S)
    direct = typical(scraper, *known)
    scraper.close()
    asked = {series: value for series, value in scene.typical(*known).items() if series.startswith("client/")}
    assert set(asked) == set(direct) == known
    for series, exactly in {"error_share": 0.1, "p50_ms": 46.0, "p90_ms": 550.0, "in_flight": 21.0}.items():
        assert asked[f"client/{series}"] == pytest.approx(exactly)
        assert direct[f"client/{series}"] == pytest.approx(exactly)
    assert direct["client/steps_per_s"] == pytest.approx(100.0, rel=0.2)
    assert asked["client/steps_per_s"] == pytest.approx(100.0, rel=0.2)


def test_replicas_are_added_up_and_strangers_are_unknown(scene):
    values = scene.typical("web/in_flight", "web/steps_per_s", "web/error_share")
    assert values["web/in_flight"] == 42.0
    assert values["web/steps_per_s"] == pytest.approx(200.0, rel=0.2)
    assert values["web/error_share"] == pytest.approx(0.1)
    assert not [series for series in values if series.startswith("nobody/") or series.endswith("/ready")]


def test_a_snapshot_bears_the_time_of_the_measurement(scene):
    clock, times = BootClock(), []

    def is_known() -> bool:
        asked_s = clock.now().boottime_s
        snapshot = scene.source.round()
        if snapshot.values:  # else there was no answer in time, and no measurement either
            assert asked_s - MAX_AGE_S <= snapshot.at_s <= clock.now().boottime_s
            times.append(snapshot.at_s)
        return bool(snapshot.values)

    for _ in range(5):
        wait_until(is_known)
        time.sleep(0.6)  # until every exporter has been scraped once more
    assert times == sorted(times)
    assert len(set(times)) > 1


def test_a_counter_that_is_reset_is_unknown_for_a_moment_and_never_negative(scene):

    def is_noticed() -> bool:
        """The moment is a second: whoever stands still for so long does not see it."""
        scene.exporters["reborn"].restart()
        rates = scene.seen("reborn/steps_per_s", for_s=3.0)
        assert all(0.0 <= rate <= 300.0 for rate in rates if rate is not None), rates
        return None in rates

    wait_until(is_noticed)
    assert scene.typical("reborn/steps_per_s")["reborn/steps_per_s"] == pytest.approx(100.0, rel=0.2)


def test_the_first_failure_of_its_kind_counts(scene):
    """A labelled counter appears with its first event; `rate()` would not see that event, ever."""
    usual = pytest.approx(0.1)

    def share() -> float | None:
        return scene.values().get("shop/error_share")

    def unusual_share() -> float | None:
        found = share()
        return None if found == usual else found

    wait_until(lambda: share() == usual)
    scene.exporters["shop"].timeouts = 30.0
    # 40 of 130 in a second; 35 of 80, or 50 of 230, in half of one or two: a scrape may come late.
    assert 0.15 < wait_until(unusual_share) < 0.6
    wait_until(lambda: share() == usual)


def test_an_exporter_that_dies_becomes_unknown_and_never_zero(scene):
    seen = {wait_until(lambda: scene.values().get("mortal/in_flight"))}

    def is_unknown() -> bool:
        values = scene.values()
        mortal = [series for series in values if series.startswith("mortal/")]
        seen.update(values[series] for series in mortal if series == "mortal/in_flight")
        return "client/in_flight" in values and not mortal

    scene.gone("mortal")
    wait_until(is_unknown)  # by itself Prometheus would show it for five minutes
    assert seen == {21.0}


def test_a_prometheus_that_hangs_knows_nothing(scene):
    scene.server.pause()
    try:
        for _ in range(3):
            asked_s = time.monotonic()
            assert scene.values() == {}
            assert time.monotonic() - asked_s < ROUND_S
    finally:
        scene.server.go_on()
    wait_until(lambda: "client/steps_per_s" in scene.values(), within_s=20.0)


def test_a_prometheus_that_was_killed_shows_nothing_of_before(scene):
    """What went away meanwhile leaves samples without an end, which Prometheus itself goes on to show for minutes."""
    scene.server.kill()
    assert scene.values() == {}
    scene.gone("web2")
    scene.announce()
    time.sleep(MAX_AGE_S)
    scene.server.start()
    connection = Connection(scene.server.url, ANSWERS_WITHIN_S)
    old = connection.ask('level{job="web"}')
    connection.close()
    assert len(old) == 2
    assert scene.values() == {}
    values = wait_until(scene.values, within_s=20.0)
    assert values.get("web/in_flight", 21.0) == 21.0
    values = scene.typical("web/in_flight", "web/steps_per_s")
    assert values["web/in_flight"] == 21.0
    assert values["web/steps_per_s"] == pytest.approx(100.0, rel=0.2)


# ---- whatever else may answer ---------------------------------------------------------------------------------------

GOOD = (element("value_of", "client/ready", "1"), element("measured_of", "client/ready", "999.9"))


@pytest.fixture(scope="module")
def canned():
    server = CannedServer()
    yield server
    server.close()


@pytest.fixture
def source(canned):
    canned.status, canned.body = 200, answer(*GOOD)
    source = connected(canned.url, ANSWERS_WITHIN_S)
    yield source
    source.close()


def test_everything_is_asked_in_one_round_trip_and_not_in_the_url(canned, source):
    """Proxies cut long URLs off; and a server that is too slow is told when to give up."""
    canned.questions.clear()
    assert source.round().values == {"client/ready": 1.0}
    ((path, body),) = canned.questions
    assert path == "/api/v1/query"
    assert body.startswith(b"query=")
    assert body.endswith(b"timeout=5000ms")


def test_asking_twice_as_often_makes_nothing_new(source):
    """The poller hands out what is newer than what it had, and one measurement must not count as two."""
    first = source.round()
    time.sleep(0.05)
    assert source.round() == first


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, answer(*GOOD)),
        (503, b"starting up"),
        (400, b'{"status":"error","errorType":"bad_data","error":"parse error"}'),
        (302, b""),
        (204, b""),
        (200, None),
        (200, b""),
        (200, b"<html>sign in</html>"),
        (200, b"\xff\xfe\x00"),
        (200, b"[" * 100_000),
        (200, b"[]"),
        (200, b"7"),
        (200, b'{"status":"success"}'),
        (200, b'{"data":null}'),
        (200, b'{"data":{"resultType":"scalar","result":[1000,"1"]}}'),
        (200, b'{"data":{"resultType":"vector","result":null}}'),
        (200, answer()),
        (200, answer(GOOD[0])),
        (200, answer(GOOD[1])),
        (200, answer(element("value_of", "client/ready", "NaN"), GOOD[1])),
        (200, answer(element("value_of", "client/ready", "+Inf"), GOOD[1])),
        (200, answer(element("value_of", "client/ready", "one"), GOOD[1])),
        (200, answer(GOOD[0], element("measured_of", "client/ready", "NaN"))),
        (200, answer(GOOD[0], element("measured_of", "client/ready", "-Inf"))),
        (200, answer(GOOD[0], element("measured_of", "client/ready", "997.9"))),
        (200, answer({"metric": {"value_of": "client/ready"}, "values": [[1000, "1"]]}, GOOD[1])),
    ],
)
def test_what_is_no_answer_is_unknown(canned, status, body):
    canned.status, canned.body = status, body
    waits_s = NO_ANSWER_S if body is None else 0.0
    source = connected(canned.url, waits_s or ANSWERS_WITHIN_S)
    asked_s = BootClock().now().boottime_s
    snapshot = source.round()
    answered_s = BootClock().now().boottime_s
    source.close()
    assert snapshot.values == {}
    assert asked_s <= snapshot.at_s <= answered_s - waits_s, "what is unknown is unknown from the question on"
    assert answered_s - asked_s < ROUND_S


def test_nobody_there_is_unknown():
    nobody = connected("http://127.0.0.1:1", NO_ANSWER_S)
    assert nobody.round().values == {}
    nobody.close()


def test_no_answer_says_who_and_why_in_one_line(canned):
    for status, body, word in [
        (500, b"a\nb", "HTTP Status Code 500"),
        (200, b"<html>", "is no Prometheus"),
        (200, None, "does not answer"),
    ]:
        canned.status, canned.body = status, body
        connection = Connection(canned.url, NO_ANSWER_S if body is None else ANSWERS_WITHIN_S)
        with pytest.raises(NoAnswer, match=word) as error:
            connection.ask("vector(1)")
        connection.close()
        assert canned.url in str(error.value)
        assert "\n" not in str(error.value)


def test_an_answer_that_took_longer_than_its_data_may_age_is_unknown():
    clock = ManualClock(boottime_s=100.0)

    class Slow:
        def ask(self, question):
            clock.advance(1.5)
            return list(GOOD)

    assert Prometheus(Slow(), catalogue(), clock, max_age_s=2.0).round().values == {"client/ready": 1.0}
    assert Prometheus(Slow(), catalogue(), clock, max_age_s=1.5).round() == Snapshot(101.5, {})


KEYS = st.sampled_from(["metric", "value", "value_of", "measured_of", "alertname", "component"]) | st.text()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["1", "NaN", "1_0"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.fixed_dictionaries({"metric": inner, "value": inner})
    ),
    max_leaves=20,
)


@given(JSON)
@example([{"metric": {"value_of": "a"}, "value": [10**400, "1"]}])
@example(list(GOOD))
def test_no_answer_breaks_the_reader(elements):
    for series, measurement in measurements(elements).items():
        assert isinstance(series, str)
        assert isinstance(measurement.value, float)
    if isinstance(elements, list):  # whatever stands beside it, what is good is read
        assert measurements([*elements, *GOOD])["client/ready"] == Measurement(1.0, 999.9, 1000.0)


@examples(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=60)
@given(body=st.binary(max_size=300) | JSON.map(lambda data: json.dumps({"data": {"result": data}}).encode()))
def test_no_body_breaks_the_source(canned, source, body):
    canned.body = body
    assert all(isinstance(value, float) for value in source.round().values.values())


# ---- clocks ---------------------------------------------------------------------------------------------------------


STEPS_S = st.just(0.0) | st.floats(-3.0, 3.0) | st.floats(-5000.0, 5000.0)


@given(st.lists(st.tuples(st.floats(0.3, 0.7), STEPS_S), min_size=3, max_size=30))
@example([(0.5, 0.0), (0.5, -0.25), (0.375, -0.5)])
@example([(0.5, 0.0)] * 5 + [(0.5, -1.7)] + [(0.5, 0.0)] * 10)
@example([(0.5, 0.0)] * 5 + [(0.5, 3600.0)] + [(0.5, 0.0)] * 5 + [(0.5, -3600.0)] + [(0.5, 0.0)] * 5)
def test_whatever_its_clock_does_nothing_old_is_taken_for_new(rounds):
    """A Prometheus that takes a sample, then is asked, while its clock is set now and then."""
    translation, true_s, ahead_s = Translation(), 1000.0, 50_000.0
    kept: list[tuple[float, float]] = []  # when, on its clock, and when in truth
    for passed_s, step_s in rounds:
        true_s += passed_s
        ahead_s += step_s
        if not kept or true_s + ahead_s > kept[-1][0]:  # it keeps nothing that is older than what it has
            kept.append((true_s + ahead_s, true_s))
        asked_s = true_s + 0.1
        shown = [sample for sample in kept if sample[0] <= asked_s + ahead_s]
        if shown:
            at_s, truly_s = shown[-1]
            answer = {"a/ready": Measurement(1.0, at_s, asked_s + ahead_s)}
            assert translation.to_boot_time(answer, asked_s)["a/ready"] <= truly_s + 1e-6


def test_a_clock_that_stands_well_changes_nothing():
    translation = Translation()
    answer = {"a/ready": Measurement(1.0, 5000.0, 5000.2), "b/ready": Measurement(1.0, 4999.0, 5000.2)}
    assert translation.to_boot_time(answer, 77.0) == pytest.approx({"a/ready": 76.8, "b/ready": 75.8})
    later = {"a/ready": Measurement(1.0, 5000.5, 5000.7)}
    assert translation.to_boot_time(later, 77.5) == pytest.approx({"a/ready": 77.3})


# ---- whom to scrape -------------------------------------------------------------------------------------------------


class Silent:
    """A source that knows nothing."""

    closed = False

    def round(self) -> Snapshot:
        return Snapshot(1.0, {})

    def close(self) -> None:
        self.closed = True


def test_targets_come_and_go_with_the_exporters(tmp_path):
    path, exporters, source = tmp_path / "targets.json", [], Silent()
    announced = Announced(source, lambda: list(exporters), TargetsFile(path, LABELS))
    announced.round()
    assert json.loads(path.read_text()) == []
    exporters += [Exporter("web", "http://127.0.0.1:81/metrics"), Exporter("starting", "")]
    announced.round()
    (target,) = json.loads(path.read_text())
    assert target["targets"] == ["127.0.0.1:81"]
    assert target["labels"] == {"cluster": "test", "job": "web", "__scheme__": "http", "__metrics_path__": "/metrics"}
    written = path.stat()
    announced.round()
    assert path.stat() == written
    announced.close()
    assert json.loads(path.read_text()) == []
    assert source.closed
    assert [entry.name for entry in tmp_path.iterdir()] == ["targets.json"]


def test_a_file_that_cannot_be_written_stops_nobody(tmp_path):
    announced = Announced(Silent(), list, TargetsFile(tmp_path / "nowhere" / "targets.json", LABELS))
    assert announced.round() == Snapshot(1.0, {})
    announced.close()


# ---- the start ------------------------------------------------------------------------------------------------------


class Looking:
    """A cluster whose clock moves on by every look."""

    series = ("a/ready",)
    period_s = 0.5

    def __init__(self, *snapshots: Snapshot | None) -> None:
        self.clock = ManualClock()
        self.looks = 0
        self._snapshots = iter(snapshots)

    def next_snapshot(self, timeout_s: float) -> Snapshot | None:
        self.clock.advance(timeout_s)
        self.looks += 1
        return next(self._snapshots, Snapshot(self.clock.boottime_s, {}))


@pytest.fixture
def with_prometheus(tmp_path):
    telemetry = {"source": "prometheus", "prometheus": {"url": "http://127.0.0.1:1"}}
    return load(config_file(tmp_path, "local.yaml", telemetry=telemetry))


def test_a_start_waits_until_something_is_known(with_prometheus):
    known = {"a/ready": 1.0}
    cluster = Looking(None, Snapshot(1.0, {}), Snapshot(1.5, known), Snapshot(2.0, known, frozenset()))
    require_known(cluster, with_prometheus, lambda: False)
    assert cluster.looks == 4


def test_a_start_on_a_prometheus_that_scrapes_something_else_is_given_up(with_prometheus):
    with pytest.raises(
        BackburnError, match="knows none of the 1 series of this cluster after 30 s; configs/prometheus"
    ):
        require_known(Looking(), with_prometheus, lambda: False)


def test_a_start_on_a_prometheus_without_rules_is_given_up(with_prometheus):
    snapshots = [Snapshot(0.5 * i, {"a/ready": 1.0}) for i in range(100)]
    with pytest.raises(BackburnError, match=r"not whether any of its alerts fires.*configs/alerts\.yml"):
        require_known(Looking(*snapshots), with_prometheus, lambda: False)


def test_a_start_that_is_interrupted_waits_no_more(with_prometheus):
    cluster = Looking()
    require_known(cluster, with_prometheus, lambda: cluster.looks == 2)
    assert cluster.looks == 2
