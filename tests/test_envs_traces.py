"""How single requests are read back and chosen from what components have written."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from actuators.clock import ManualClock
from actuators.fault import Fault, Target
from agent.findings.record import outcome_json
from envs.clusters.local import LocalCluster
from envs.clusters.recorded import RecordedCluster
from envs.clusters.simulated.cluster import SimulatedCluster
from envs.scoring import Verdict
from envs.staging import handle as handles
from envs.telemetry.snapshot import Snapshot
from envs.telemetry.traces import Seen, ShowsRequests, pair, read
from tests.simulation import simulation
from tests.test_staging_handle import HANDLE

from .requests_traced import TRACE, line, request, write


def read_all(folder: Path) -> Seen:
    seen = read(folder, -math.inf, math.inf)
    assert seen is not None
    return seen


def test_the_hops_of_a_request_are_put_together_from_the_files_of_all_components(tmp_path):
    write(tmp_path, line("1", end_s=100.4), name="client-7.jsonl")
    write(tmp_path, line("2", "1", component="gateway", start_s=100.1), name="gateway-8.jsonl")
    write(
        tmp_path,
        line("4", "3", component="feature-store", start_s=100.3),
        line("3", "2", component="model-server", start_s=100.2, attributes={"model.version": 3}),
        name="model-server-9.jsonl.1",
    )
    (trace,) = read_all(tmp_path).traces
    assert [span.component for span in trace.spans] == ["client", "gateway", "model-server", "feature-store"]
    assert list(trace.depths().values()) == [0, 1, 2, 3]
    assert trace.id == TRACE
    assert trace.root.took_s == pytest.approx(0.4)
    shown = trace.to_json(zero_s=90.0)
    assert (shown["at_s"], shown["spans"][2]["start_ms"]) == (10.0, 200.0)
    assert shown["spans"][2]["attributes"] == {"model.version": 3}
    assert json.loads(json.dumps(shown, allow_nan=False)) == shown


@pytest.mark.parametrize("newest_first", [True, False])
def test_a_hop_ends_when_it_says_so_and_has_not_ended_when_it_never_does(tmp_path, newest_first):
    begun, ended = line("1", end_s=None), line("1")
    write(tmp_path, *((ended, begun) if newest_first else (begun, ended)), line("2", "1", end_s=None))
    (trace,) = read_all(tmp_path).traces
    assert trace.root.end_s == 100.5
    assert trace.spans[1].end_s is None
    assert trace.to_json(0.0)["spans"][1]["took_ms"] is None
    assert not trace.failed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no json",
        "[]",
        "null",
        "{}",
        line("1")[:-20],
        line("1", start_s="soon"),
        line("1", start_s=float("nan")),
        line("1", end_s=float("inf")),
        line("1", end_s=99.0),
        line("1", attributes=None),
        line("1", name=7),
        line("1", start_s=10**400),
        "[" * 100_000,
    ],
)
def test_a_line_that_makes_no_sense_is_left_out_and_counted(tmp_path, text):
    write(tmp_path, text, line("1"), text)
    seen = read_all(tmp_path)
    assert [trace.root.id for trace in seen.traces] == ["1"]
    assert seen.malformed == 2


@examples(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(st.binary(max_size=60) | st.sampled_from([line("1").encode(), line("2", "9").encode()]), max_size=8))
def test_whatever_stands_in_a_file_nothing_breaks(tmp_path, lines):
    (tmp_path / "client-7.jsonl").write_bytes(b"\n".join(lines))
    seen = read_all(tmp_path)
    assert len(seen.traces) == (line("1").encode() in lines)


def test_a_request_of_which_the_beginning_is_not_known_says_nothing(tmp_path):
    write(tmp_path, line("2", "1"), line("3", "2"))
    assert read_all(tmp_path) == Seen([], 0)


def test_hops_whose_caller_nobody_knows_come_last_and_a_ring_of_callers_is_borne(tmp_path):
    write(tmp_path, line("1"), line("3", "2", start_s=100.1), line("5", "6"), line("6", "5"))
    (trace,) = read_all(tmp_path).traces
    assert trace.root.id == "1"
    assert {span.id for span in trace.spans} == {"1", "3", "5", "6"}
    assert trace.depths()["3"] == 1


def test_a_storm_of_attempts_is_cut_short_and_counted(tmp_path):
    write(tmp_path, line("1"), *(line(f"s{number}", "1", start_s=100.0 + number / 1000) for number in range(40)))
    (trace,) = read_all(tmp_path).traces
    assert (len(trace.spans), trace.left_out) == (12, 29)


def test_long_and_many_line_texts_become_one_short_line(tmp_path):
    write(tmp_path, line("1", error="no\nanswer " + "x" * 500, attributes={"why": ["a", {"b": 1}]}))
    (trace,) = read_all(tmp_path).traces
    assert len(trace.root.error) == 80
    assert trace.root.error.startswith("no answer xxx")
    assert trace.root.attributes == {"why": "['a', {'b': 1}]"}


def test_only_requests_of_the_asked_time_are_shown(tmp_path):
    write(tmp_path, *(line("1", trace=f"t{at_s}", start_s=at_s, end_s=at_s + 1.0) for at_s in (9.0, 10.0, 19.9, 20.0)))
    seen = read(tmp_path, 10.0, 20.0)
    assert [trace.root.start_s for trace in seen.traces] == [10.0, 19.9]


def test_without_a_folder_nobody_can_tell(tmp_path):
    assert read(tmp_path / "nothing", 0.0, 1.0) is None
    (tmp_path / "a.jsonl").mkdir()
    assert read(tmp_path, 0.0, 1.0) == Seen([], 0)


# ---- what an experiment keeps of them --------------------------------------------------------------------------------


class Telling(SimulatedCluster):
    """A simulated cluster that can show how single requests went, or could if anybody knew."""

    asked = ()
    knows = True

    def requests(self, from_s: float, until_s: float) -> Seen | None:
        self.asked = (from_s, until_s)
        times = np.arange(from_s, until_s)
        return Seen([request(at_s, 0.01 + at_s / 1e6) for at_s in times]) if self.knows else None


@pytest.fixture
def telling(settings, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.simulation.SimulatedCluster", Telling)
    world = simulation(settings, tmp_path)
    yield world.experimenter
    world.close()


DELAY = Fault("network.delay", Target("feature-store"), 1.0, 12.0)


def test_every_experiment_keeps_one_request_before_and_one_during_its_fault(telling):
    outcome = telling.run(DELAY)
    from_s, until_s = telling.cluster.asked
    phases = outcome.phases
    assert (from_s, until_s) == (phases.injected_s - telling.scorer.calibration.shape.quiet_s, phases.cleared_s)
    assert from_s <= outcome.requests.before.root.start_s < phases.injected_s
    assert phases.injected_s <= outcome.requests.during.root.start_s < phases.cleared_s
    written = outcome_json(outcome)
    assert written["requests"]["injection_id"] == outcome.injection_id is not None
    assert written["requests"]["before"]["at_s"] < 0.0 < written["requests"]["during"]["at_s"]
    assert len(json.dumps(written["requests"])) < 4096


def test_a_cluster_that_cannot_tell_how_requests_went_stops_nothing(telling):
    telling.cluster.knows = False
    outcome = telling.run(DELAY)
    assert outcome.verdict is not Verdict.TOOL_ERROR
    assert outcome_json(outcome)["requests"] is None


class Silence:
    """A source of measurements that has none: neither exporters nor a Prometheus have anything to do with requests."""

    def __init__(self, *_: object) -> None:
        pass

    def round(self) -> Snapshot:
        return Snapshot(0.0, {})

    def close(self) -> None:
        pass


@pytest.mark.parametrize("paths", ["told", "untold"])
def test_the_embedded_cluster_shows_requests_whatever_its_measurements_come_from(tmp_path, paths):
    write(tmp_path / "traces", line("1"))
    handle = tmp_path / "platform.json"
    told = {"traces": str(tmp_path / "traces")} if paths == "told" else {}
    handles.write(handle, replace(HANDLE, paths=told))
    cluster = LocalCluster(handle, ManualClock(), Silence, period_s=0.5)
    try:
        seen = cluster.requests(100.0, 101.0)
        assert (None if seen is None else [trace.id for trace in seen.traces]) == ([TRACE] if told else None)
        assert cluster.requests(0.0, 1.0) == (Seen([]) if told else None)
        handle.unlink()
        assert cluster.requests(100.0, 101.0) is None
    finally:
        cluster.close()


def test_simulated_and_recorded_clusters_show_no_requests():
    assert not issubclass(SimulatedCluster, ShowsRequests)
    assert not issubclass(RecordedCluster, ShowsRequests)
    assert issubclass(LocalCluster, ShowsRequests)


# ---- which of them are worth showing --------------------------------------------------------------------------------


def test_before_the_fault_the_median_answered_request_is_typical():
    times = [0.010, 0.050, 0.012, 0.900, 0.011]
    quick = [request(float(number), took_s) for number, took_s in enumerate(times)]
    failed = request(6.0, 0.012, error="timeout")
    under_way = request(9.0, 0.013 + 5.0)
    chosen = pair(Seen([*quick, failed, under_way]), injected_s=10.0, cleared_s=20.0)
    assert chosen.before is quick[2]
    assert chosen.during is None


@pytest.mark.parametrize(
    ("during", "telling"),
    [
        ([request(11.0, 0.2), request(12.0, 0.9), request(13.0, 0.4)], 1),
        ([request(11.0, 0.2), request(12.0, 0.01, error="error"), request(13.0, 5.0)], 1),
        ([request(11.0, 0.2, error="error"), request(12.0, 2.0, error="timeout"), request(13.0, 5.0)], 1),
        ([request(11.0, 2.0, error="timeout"), request(12.0, None)], 1),
    ],
)
def test_during_the_fault_the_slowest_that_failed_tells_most_or_else_the_slowest(during, telling):
    assert pair(Seen(during), injected_s=10.0, cleared_s=20.0).during is during[telling]


def test_where_answers_became_wrong_a_wrong_one_tells_more_than_a_slow_one():
    wrong, slow = request(11.0, 0.01, answer_right=False), request(12.0, 0.9, answer_right=True)
    assert pair(Seen([wrong, slow]), 10.0, 20.0).during is slow
    assert pair(Seen([wrong, slow]), 10.0, 20.0, wrong_first=True).during is wrong


def test_what_was_under_way_when_the_fault_began_or_began_after_it_belongs_to_neither():
    seen = Seen([request(9.9, 3.0), request(20.0, 3.0), request(9.0, None)])
    assert pair(seen, 10.0, 20.0) == pair(Seen([]), 10.0, 20.0)


def test_the_injection_is_named_by_those_who_injected_and_times_count_from_it():
    chosen = pair(Seen([request(4.0, 0.1), request(12.5, 0.3)], malformed=2), 10.0, 20.0)
    shown = chosen.to_json(10.0, "bb-12")
    assert (shown["injection_id"], shown["malformed"]) == ("bb-12", 2)
    assert (shown["before"]["at_s"], shown["during"]["at_s"]) == (-6.0, 2.5)
