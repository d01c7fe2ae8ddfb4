from __future__ import annotations

import http.server
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from actuators.clock import BootClock, ManualClock
from envs.telemetry.poller import Poller
from envs.telemetry.reading import Change, Quantile, Rate, Ratio
from envs.telemetry.reading import Gauge as GaugeReading
from envs.telemetry.scrape import Exporter, Scraper, parsed


class Process:
    """One process's metrics, as the real client library writes them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("client_requests", "x", ["outcome"], registry=self.registry)
        self.latency = Histogram("latency_seconds", "x", buckets=(0.01, 0.02, 0.05, 0.1, 1.0), registry=self.registry)
        self.flying = Gauge("in_flight", "x", registry=self.registry)

    def text(self) -> str:
        return generate_latest(self.registry).decode()


def change(process: Process, do, seconds: float = 1.0) -> Change:
    before = parsed(process.text())
    do(process)
    return Change(before, parsed(process.text()), seconds)


FAILED = Ratio("client_requests_total", "client_requests_total", ({"outcome": "error"}, {"outcome": "timeout"}))


def served(good: int, bad: int):
    def do(process):
        process.requests.labels("ok").inc(good)
        if bad:
            process.requests.labels("timeout").inc(bad)

    return do


def test_a_ratio_adds_up_labels_and_counts_what_first_appears():
    assert FAILED.value([change(Process(), served(15, 5))]) == 0.25
    assert FAILED.value([change(Process(), served(15, 0))]) == 0.0


def test_a_ratio_of_next_to_nothing_is_unknown():
    assert FAILED.value([change(Process(), served(1, 1))]) is None
    assert FAILED.value([]) is None


def test_a_ratio_sums_over_replicas():
    assert FAILED.value([change(Process(), served(10, 0)), change(Process(), served(5, 5))]) == 0.25


def test_a_restarted_process_is_unknown_for_a_moment_and_never_negative():
    old, new = Process(), Process()
    served(100, 0)(old)
    served(3, 0)(new)
    reset = Change(parsed(old.text()), parsed(new.text()), 1.0)
    assert Rate("client_requests_total").value([reset]) is None
    assert FAILED.value([reset]) is None


def test_a_rate_is_per_second_and_needs_two_looks():
    assert Rate("client_requests_total").value([change(Process(), served(30, 0), seconds=2.0)]) == 15.0
    assert Rate("client_requests_total").value([change(Process(), served(30, 0), seconds=0.0)]) is None


def test_a_quantile_is_interpolated_from_what_happened_in_between():
    process = Process()
    for _ in range(1000):
        process.latency.observe(0.5)

    def fast(process):
        for _ in range(10):
            process.latency.observe(0.015)

    found = Quantile("latency_seconds", 0.5, scale=1000.0).value([change(process, fast)])
    assert 10.0 <= found <= 20.0


def test_a_quantile_beyond_the_last_bucket_is_its_bound():
    def slow(process):
        for _ in range(10):
            process.latency.observe(60.0)

    assert Quantile("latency_seconds", 0.5).value([change(Process(), slow)]) == 1.0


@given(st.lists(st.floats(0.001, 2.0), min_size=5, max_size=60), st.floats(0.05, 0.95))
def test_a_quantile_never_leaves_the_bucket_that_holds_it(latencies, q):
    def do(process):
        for latency in latencies:
            process.latency.observe(latency)

    found = Quantile("latency_seconds", q).value([change(Process(), do)])
    bounds = [0.0, 0.01, 0.02, 0.05, 0.1, 1.0, float("inf")]
    counts = [sum(latency <= bound for latency in latencies) for bound in bounds]
    upper = next(i for i, count in enumerate(counts) if count >= q * len(latencies))
    assert bounds[max(0, upper - 1)] <= found <= min(bounds[upper], 1.0)


def test_gauges_are_summed_and_absent_ones_are_unknown():
    process = Process()
    process.flying.set(3)
    both = [change(process, lambda p: None), change(process, lambda p: None)]
    assert GaugeReading("in_flight").value(both) == 6.0
    assert GaugeReading("nothing").value(both) is None


# ---- scraping -------------------------------------------------------------------------------------------------------


class Answers:
    """A real HTTP exporter whose answers a test decides."""

    def __init__(self) -> None:
        self.body: bytes | None = b"x 1\n"
        self.status = 200
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                if outer.body is None:
                    outer.hang.wait()
                    return
                self.send_response(outer.status)
                self.send_header("Content-Length", str(len(outer.body)))
                self.end_headers()
                self.wfile.write(outer.body)

            def log_message(self, *_):
                """Keeps quiet."""

        self.hang = threading.Event()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.exporter = Exporter("web", f"http://127.0.0.1:{self.server.server_port}/metrics")

    def close(self):
        self.hang.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def answers():
    answers = Answers()
    yield answers
    answers.close()


@pytest.fixture
def scraper(answers):
    readings = {"web/ready": ("web", GaugeReading("x")), "web/restarts": ("web", Rate("x_total"))}
    scraper = Scraper(lambda: [answers.exporter], readings, BootClock(), timeout_s=2.0)
    yield scraper
    scraper.close()


def test_what_answers_is_known(scraper):
    assert scraper.round().values == {"web/ready": 1.0}


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b"x 1\n"),
        (200, b"x one\n"),
        (200, b"\xff\xfe"),
        (200, b"{}"),
        (200, b"x NaN\n"),
        (200, b"x +Inf\n"),
        (200, None),
        (200, b""),
    ],
)
def test_what_does_not_answer_sensibly_is_unknown(scraper, answers, status, body):
    answers.status, answers.body = status, body
    assert scraper.round().values == {}


def test_an_exporter_that_comes_back_is_known_again(scraper, answers):
    answers.body = None
    assert scraper.round().values == {}
    answers.body = b"x 7\n"
    answers.hang.set()
    assert scraper.round().values == {"web/ready": 7.0}


def test_nobody_to_ask_is_an_empty_look_and_no_error():
    scraper = Scraper(list, {"web/ready": ("web", GaugeReading("x"))}, BootClock())
    assert scraper.round().values == {}
    scraper.close()


def test_counters_are_differentiated_over_a_second_or_so(answers):
    clock = ManualClock()
    scraper = Scraper(lambda: [answers.exporter], {"web/restarts": ("web", Rate("x_total"))}, clock, timeout_s=5.0)
    rates = []
    for look in range(8):
        answers.body = b"# TYPE x counter\nx_total %d\n" % (10 * look if look < 4 else 40 * look)
        rates.append(scraper.round().values.get("web/restarts"))
        clock.advance(0.5)
    scraper.close()
    assert rates[0] is None
    assert rates[1:4] == [20.0, 20.0, 20.0]
    assert rates[-1] == 80.0


def test_rounds_that_come_early_or_late_do_not_change_the_time_over_which_counters_are_differentiated(answers):
    clock = ManualClock()
    scraper = Scraper(lambda: [answers.exporter], {"web/restarts": ("web", Rate("x_total"))}, clock, timeout_s=5.0)
    rates = []
    for look, late_s in enumerate([0.0, 0.01, -0.01, 0.02, -0.02, 0.01, -0.01, 0.0]):
        answers.body = b"# TYPE x counter\nx_total %d\n" % (0 if look < 4 else 100)  # all in one round
        rates.append(scraper.round().values.get("web/restarts"))
        clock.advance(0.5 + late_s)
    scraper.close()
    assert rates[1:4] == [0.0] * 3
    assert rates[4:6] == pytest.approx([100.0, 100.0], rel=0.05)
    assert rates[6:] == [0.0] * 2


def test_a_poller_hands_every_look_out_once_and_ends(scraper):
    poller = Poller(scraper, 0.01)
    poller.start()
    first = poller.after(float("-inf"), 5.0)
    second = poller.after(first.at_s, 5.0)
    assert second.at_s > first.at_s
    assert poller.after(second.at_s + 1000.0, 0.01) is None
    poller.close()


@given(st.binary(max_size=200))
def test_no_text_breaks_the_parser(text):
    try:
        samples = parsed(text.decode(errors="replace"))
    except ValueError:
        return
    assert all(isinstance(value, float) for family in samples.values() for value in family.values())
