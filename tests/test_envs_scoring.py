from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from actuators.fault import Fault, Target
from envs.clusters.base import Component, Topology
from envs.hypothesis import Clause, Hypothesis, Mechanism, Phases
from envs.scoring import UNIT_WINDOWS, Record, Scorer, Verdict
from envs.scoring.conformal import conformal_test, e_value
from envs.telemetry.snapshot import Snapshot
from envs.windows import Calibration, Shape, rows, window_medians

SHAPE = Shape(window_s=3.0, reference=4, samples=6)
SERIES = ("client/error_share", "client/p50_ms", "trainer/steps_per_s", "trainer/step", "web/ready")
HYPOTHESIS = Hypothesis(
    (
        Clause("client/error_share", Mechanism.UNAVAILABLE, at_most=0.10),
        Clause("client/p50_ms", Mechanism.SLOW, at_most=300.0),
        Clause("trainer/steps_per_s", Mechanism.STUCK, must="return", at_least=10.0, within_s=20.0),
        Clause("trainer/step", Mechanism.LOST_PROGRESS, must="keep", at_most=100.0),
    )
)
TOPOLOGY = Topology([Component("web", "web", 1), Component("trainer", "trainer", 2)], {"client": ("web",)})
FAULT = Fault("pod.pause", Target("web"), 0.5, 12.0)


def healthy(random, at_s: float) -> dict[str, float]:
    return {
        "client/error_share": 0.0,
        "client/p50_ms": 15.0 * float(np.exp(0.15 * random.standard_normal())),
        "trainer/steps_per_s": 20.0 + 0.5 * random.standard_normal(),
        "trainer/step": 20.0 * at_s,
        "web/ready": 1.0,
    }


def calibrated(units: int = 80, seed: int = 0) -> Scorer:
    random = np.random.default_rng(seed)
    windows = units + SHAPE.reference + UNIT_WINDOWS - 1
    snapshots = [Snapshot(0.5 * i, healthy(random, 0.5 * i)) for i in range(1, windows * 6 + 1)]
    calibration = Calibration(SERIES, SHAPE)
    calibration.add(window_medians(snapshots, SERIES, 0.0, SHAPE))
    return Scorer(calibration, HYPOTHESIS)


def recorded(change, *, seed=1, cleared_s=112.0, recovered_s=100.0, ended_s=121.0, took=True, fault=FAULT) -> Record:
    """A record with the injection at 100 s; `change(t, values)` says what the fault did at a sample."""
    random = np.random.default_rng(seed)
    snapshots = []
    for i in range(int((ended_s - 88.0) * 2) + 1):
        at_s = 88.0 + 0.5 * i
        values = healthy(random, at_s)
        change(at_s, values)
        snapshots.append(Snapshot(at_s, values))
    return Record(fault, took, snapshots, Phases(100.0, cleared_s, recovered_s, ended_s))


def nothing(at_s, values):
    """The fault did nothing that could be seen."""


def down_for(seconds):
    def change(at_s, values):
        if 100.0 < at_s <= 100.0 + seconds:
            values["client/error_share"] = 1.0

    return change


# ---- verdicts -------------------------------------------------------------------------------------------------------


def test_an_outage_is_a_weakness_with_all_that_a_reader_needs():
    score = calibrated().score(recorded(down_for(5.0), recovered_s=105.5), TOPOLOGY)
    assert score.evidence.verdict is Verdict.WEAKNESS
    assert score.broken[0].mechanism is Mechanism.UNAVAILABLE
    assert score.broken[0].worst == 1.0
    assert score.evidence.p == pytest.approx(1 / 81)
    assert score.evidence.p_floor == pytest.approx(1 / 81)
    assert score.evidence.e_value == pytest.approx(4.5)
    assert score.recovery_s == 5.5
    assert "client/error_share" in dict(score.moved)
    assert 0.5 < score.evidence.anomaly_score <= 1.0
    assert score.evidence.spread == 0.0


@pytest.mark.parametrize("after_s", np.arange(0.0, 9.0, 0.5))
def test_the_shortest_outage_that_breaks_a_promise_is_seen_wherever_it_lies(after_s):
    def down(at_s, values):
        if 100.0 + after_s < at_s <= 101.5 + after_s:
            values["client/error_share"] = 1.0

    score = calibrated().score(recorded(down), TOPOLOGY)
    assert score.evidence.verdict is Verdict.WEAKNESS
    assert score.evidence.p == pytest.approx(1 / 81)


def test_what_only_shows_at_the_end_of_a_long_fault_is_seen():
    def late(at_s, values):
        if 137.0 < at_s <= 140.0:
            values["client/p50_ms"] = 900.0

    record = recorded(late, cleared_s=140.0, recovered_s=140.5, ended_s=155.0)
    score = calibrated().score(record, TOPOLOGY)
    assert score.evidence.verdict is Verdict.WEAKNESS
    assert score.broken[0].mechanism is Mechanism.SLOW


def test_two_of_three_bad_samples_break_no_promise():
    assert calibrated().score(recorded(down_for(1.0)), TOPOLOGY).evidence.verdict is Verdict.RESILIENT


def test_a_fault_that_did_not_take_is_invalid_and_never_resilient():
    assert calibrated().score(recorded(nothing, took=False), TOPOLOGY).evidence.verdict is Verdict.INVALID


def test_unknown_for_long_is_invalid_and_never_resilient():
    def blind(at_s, values):
        if 104.0 < at_s < 108.0:
            del values["client/p50_ms"]

    score = calibrated().score(recorded(blind), TOPOLOGY)
    assert score.evidence.verdict is Verdict.INVALID
    assert "client/p50_ms was unknown" in score.reason


def test_a_recovery_that_nobody_saw_is_invalid_and_never_resilient():
    score = calibrated().score(recorded(nothing, recovered_s=None), TOPOLOGY)
    assert score.evidence.verdict is Verdict.INVALID
    assert "nobody saw" in score.reason


def test_nan_and_infinity_never_count_as_kept():
    def odd(at_s, values):
        if at_s > 100.0:
            values["client/p50_ms"] = math.nan

    assert calibrated().score(recorded(odd), TOPOLOGY).evidence.verdict is not Verdict.RESILIENT


def test_without_calibration_nothing_is_a_weakness():
    score = Scorer(Calibration(SERIES, SHAPE), HYPOTHESIS).score(recorded(down_for(6.0)), TOPOLOGY)
    assert score.evidence.verdict is Verdict.INCONCLUSIVE
    assert math.isnan(score.evidence.p)
    assert score.evidence.e_value == 1.0


def test_too_little_calibration_cannot_reach_the_level():
    score = calibrated(units=10).score(recorded(down_for(6.0)), TOPOLOGY)
    assert score.evidence.p == pytest.approx(1 / 11)
    assert score.evidence.verdict is Verdict.INCONCLUSIVE


def test_a_promise_that_was_broken_while_nothing_is_compared_is_not_called_noise():
    def slow_unseen(at_s, values):
        if 115.0 < at_s <= 118.0:
            values["client/p50_ms"] = 900.0
        elif at_s > 100.0:
            del values["client/p50_ms"]

    record = recorded(slow_unseen, cleared_s=140.0, recovered_s=140.5, ended_s=155.0)
    score = calibrated().score(record, TOPOLOGY)
    assert score.evidence.verdict is Verdict.INCONCLUSIVE
    assert "too little of that could be compared" in score.reason


@pytest.mark.parametrize(("from_s", "is_seen"), [(109.0, True), (115.0, False), (125.0, False), (136.0, True)])
def test_a_promise_that_was_broken_at_a_time_that_no_test_looks_at_is_not_called_noise(from_s, is_seen):
    """Of a long fault the first and the last windows are compared: what lies between them says nothing of this p."""

    def hardly_slow(at_s, values):
        if from_s < at_s <= from_s + 1.5:
            values["client/p50_ms"] = 301.0
        values["client/p50_ms"] *= 15.0  # by itself it is often as slow

    random = np.random.default_rng(0)
    snapshots = [Snapshot(0.5 * i, healthy(random, 0.5 * i)) for i in range(1, 92 * 6)]
    for snapshot in snapshots:
        snapshot.values["client/p50_ms"] *= 15.0
    calibration = Calibration(SERIES, SHAPE)
    calibration.add(window_medians(snapshots, SERIES, 0.0, SHAPE))
    record = recorded(hardly_slow, cleared_s=140.0, recovered_s=140.5, ended_s=155.0)
    lenient = replace(HYPOTHESIS.clauses[1], at_most=4000.0)
    hypothesis = Hypothesis((HYPOTHESIS.clauses[0], lenient, *HYPOTHESIS.clauses[2:]))
    score = Scorer(calibration, hypothesis, alpha=0.001).score(record, TOPOLOGY)  # which so few units cannot reach
    assert score.evidence.verdict is Verdict.INCONCLUSIVE
    assert [one.series for one in score.broken] == ["client/p50_ms"]
    assert math.isnan(score.evidence.p) != is_seen
    assert ("this cluster's own noise" if is_seen else "too little of that could be compared") in score.reason
    assert is_seen or score.evidence.e_value == 1.0


@pytest.mark.parametrize(("unknown_s", "verdict"), [(5.0, Verdict.INVALID), (1.0, Verdict.RESILIENT)])
def test_what_nobody_knew_after_a_deadline_is_not_made_up_for_by_what_was_known_before(unknown_s, verdict):
    def blind(at_s, values):
        if 120.0 < at_s <= 120.0 + unknown_s:
            del values["trainer/steps_per_s"]

    score = calibrated().score(recorded(blind, cleared_s=140.0, recovered_s=140.0, ended_s=155.0), TOPOLOGY)
    assert score.evidence.verdict is verdict, score.reason


def test_training_of_which_nothing_was_known_at_its_deadline_is_stuck_by_what_was_seen_after_it():
    def stuck(at_s, values):
        if 103.0 < at_s <= 140.0:
            values["trainer/steps_per_s"] = 0.0
        if 119.0 < at_s <= 126.0:
            del values["trainer/steps_per_s"]

    score = calibrated().score(recorded(stuck, cleared_s=140.0, recovered_s=141.0, ended_s=150.0), TOPOLOGY)
    assert (score.evidence.verdict, score.broken[0].mechanism) == (Verdict.WEAKNESS, Mechanism.STUCK), score.reason
    assert score.evidence.p == pytest.approx(1 / 81)


def test_training_that_comes_back_in_time_is_resilient_and_late_is_stuck():
    def stopped_for(seconds):
        def change(at_s, values):
            if 100.0 < at_s <= 100.0 + seconds:
                values["trainer/steps_per_s"] = 0.0

        return change

    in_time = recorded(stopped_for(15.0), recovered_s=115.5, ended_s=125.0)
    assert calibrated().score(in_time, TOPOLOGY).evidence.verdict is Verdict.RESILIENT
    late = recorded(stopped_for(60.0), recovered_s=None, ended_s=129.0)
    score = calibrated().score(late, TOPOLOGY)
    assert score.evidence.verdict is Verdict.WEAKNESS
    assert score.broken[0].mechanism is Mechanism.STUCK


def test_progress_that_is_lost_is_noticed():
    def from_zero(at_s, values):
        if at_s > 110.0:
            values["trainer/step"] = 20.0 * (at_s - 110.0)

    score = calibrated().score(recorded(from_zero), TOPOLOGY)
    assert score.evidence.verdict is Verdict.WEAKNESS
    assert [b.mechanism for b in score.broken] == [Mechanism.LOST_PROGRESS]


def test_what_does_not_come_back_is_not_recovered():
    score = calibrated().score(recorded(down_for(60.0), recovered_s=None, ended_s=135.0), TOPOLOGY)
    assert {b.mechanism for b in score.broken} >= {Mechanism.UNAVAILABLE, Mechanism.NOT_RECOVERED}
    assert score.evidence.recovery_ratio == math.inf
    assert score.evidence.anomaly_score == 1.0


def test_an_effect_on_the_target_alone_is_no_weakness():
    def target_down(at_s, values):
        if 100.0 < at_s <= 112.0:
            values["web/ready"] = 0.0

    score = calibrated().score(recorded(target_down), TOPOLOGY)
    assert score.evidence.verdict is Verdict.RESILIENT
    assert score.evidence.effect > 0.5
    assert score.evidence.anomaly_score == 0.0


def test_a_bystander_that_suffers_is_spread():
    def both(at_s, values):
        down_for(6.0)(at_s, values)
        if 100.0 < at_s <= 112.0:
            values["trainer/steps_per_s"] = 2.0

    assert calibrated().score(recorded(both), TOPOLOGY).evidence.spread > 0.5


def test_what_nobody_could_see_of_a_fault_is_invalid_and_never_resilient():
    """The client needs what was hit; with its series out of the game, an outage of six seconds goes unseen."""
    record = replace(recorded(down_for(6.0)), without=frozenset({"client"}))
    score = calibrated().score(record, TOPOLOGY)
    assert score.evidence.verdict is Verdict.INVALID
    assert "nobody looked at client/error_share" in score.reason
    assert score.evidence.e_value == 1.0, "nothing against a weakness either"
    kept = replace(recorded(nothing), without=frozenset({"client"}))
    assert calibrated().score(kept, TOPOLOGY).evidence.verdict is Verdict.INVALID


def test_what_is_broken_where_somebody_still_looks_is_a_weakness():
    def both(at_s, values):
        down_for(6.0)(at_s, values)
        if at_s > 110.0:
            values["trainer/step"] = 20.0 * (at_s - 110.0)

    score = calibrated().score(replace(recorded(both), without=frozenset({"client"})), TOPOLOGY)
    assert (score.evidence.verdict, score.broken[0].mechanism) == (Verdict.WEAKNESS, Mechanism.LOST_PROGRESS)


def test_quarantined_series_of_which_the_target_is_no_part_are_out_of_the_game():
    def stopped(at_s, values):
        values["trainer/steps_per_s"] = values["trainer/step"] = 0.0

    record = replace(recorded(stopped), without=frozenset({"trainer"}))
    assert calibrated().score(record, TOPOLOGY).evidence.verdict is Verdict.RESILIENT


def test_an_alarm_that_the_target_alone_owes_is_not_taken_for_one_that_came():
    owes = Clause("web/up", Mechanism.SILENT, must="alert", at_least=1.0, within_s=6.0)
    scorer = calibrated()
    trains = Scorer(scorer.calibration, Hypothesis((*HYPOTHESIS.clauses[2:], owes)))
    assert trains.score(recorded(nothing), TOPOLOGY).evidence.verdict is not Verdict.RESILIENT, "web/up was unknown"
    for without, unseen in ((frozenset({"web", "client"}), True), (frozenset({"client"}), False)):
        score = trains.score(replace(recorded(nothing), without=without), TOPOLOGY)
        assert ("nobody looked at web/up" in score.reason) is unseen


# ---- level and power ------------------------------------------------------------------------------------------------


def test_the_level_holds_on_fault_free_records():
    """A sham alarms on its p-value alone in about 5 % of cases; a verdict needs a broken promise as well."""
    alarms, verdicts, runs = 0, 0, 300
    for seed in range(runs):
        score = calibrated(seed=seed).score(recorded(nothing, seed=seed + 10_000), TOPOLOGY)
        alarms += score.evidence.p <= 0.05
        verdicts += score.evidence.verdict is Verdict.WEAKNESS
    assert verdicts == 0
    assert alarms / runs < 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def test_the_smallest_visible_shift_is_about_right():
    """Half of the promised `mde` is hardly ever significant, twice of it nearly always."""
    found = {0.5: 0, 2.0: 0}
    for seed in range(40):
        scorer = calibrated(seed=seed)
        mde = scorer.score(recorded(nothing, seed=seed), TOPOLOGY).evidence.mde
        for factor in found:

            def shifted(at_s, values, by=factor * mde * 0.05):
                if at_s > 100.0:
                    values["client/error_share"] += by

            found[factor] += scorer.score(recorded(shifted, seed=seed), TOPOLOGY).evidence.p <= 0.05
    assert found[2.0] >= 38
    assert found[0.5] <= 15


def test_a_series_that_grows_by_itself_hides_no_loss_and_is_none():
    """A step counter is always far from its reference; falling back by ten seconds' worth of steps is not normal."""

    def behind(at_s, values):
        if at_s > 105.0:
            values["trainer/step"] -= 200.0

    assert calibrated().score(recorded(nothing), TOPOLOGY).evidence.p > 0.05
    lost = calibrated().score(recorded(behind), TOPOLOGY)
    assert lost.evidence.p == lost.evidence.p_floor


def test_who_else_was_hit_and_who_was_not_is_told():
    topology = Topology(
        [Component("web", "web", 1), Component("gate", "gate", 1, ("web",)), Component("trainer", "trainer", 2)],
        {"client": ("gate",)},
    )
    series = (*SERIES, "gate/request_ms")
    random = np.random.default_rng(0)
    calibration = Calibration(series, SHAPE)
    snapshots = [Snapshot(0.5 * i, healthy(random, 0.5 * i) | {"gate/request_ms": 10.0}) for i in range(1, 540)]
    calibration.add(window_medians(snapshots, series, 0.0, SHAPE))

    def slow(at_s, values):
        down_for(6.0)(at_s, values)
        values["gate/request_ms"] = 900.0 if 100.0 < at_s <= 112.0 else 10.0

    score = Scorer(calibration, HYPOTHESIS).score(recorded(slow), topology)
    assert {name for name, _ in score.moved} == {"client/error_share", "gate/request_ms"}
    assert score.evidence.spread == 0.0, "who needs the target is no bystander"
    assert score.tested == ("client", "gate", "trainer", "web")


def test_of_what_nobody_looked_at_it_is_not_said_that_it_was_spared():
    """A bystander's platform series are not tested, and what was unknown all the time could not be."""
    topology = Topology([*TOPOLOGY.components, Component("stream", "stream", 1)], {**TOPOLOGY.observers, "probe": ()})
    series = (*SERIES, "stream/ready", "probe/error_share")
    random = np.random.default_rng(0)
    calibration = Calibration(series, SHAPE)
    always = {"stream/ready": 1.0, "probe/error_share": 0.0}
    snapshots = [Snapshot(0.5 * i, healthy(random, 0.5 * i) | always) for i in range(1, 540)]
    calibration.add(window_medians(snapshots, series, 0.0, SHAPE))
    scorer = Scorer(calibration, HYPOTHESIS)

    def dark(at_s, values):
        down_for(6.0)(at_s, values)
        values["stream/ready"] = 1.0

    assert scorer.score(recorded(dark), topology).tested == ("client", "trainer", "web")
    seen = scorer.score(recorded(lambda at_s, values: values.update(always)), topology)
    assert seen.tested == ("client", "probe", "trainer", "web")


def test_a_constant_series_does_not_make_the_slightest_change_significant():
    calibration = Calibration(("client/error_share",), SHAPE, [np.zeros((100, 1))])
    tiny = {"client/error_share": np.array([0.005])}
    assert not conformal_test(calibration, tiny, UNIT_WINDOWS, 0.05).moved(0.05)


def test_the_maximum_over_more_windows_is_compared_with_maxima_over_as_many():
    random = np.random.default_rng(0)
    calibration = Calibration(("client/p50_ms",), SHAPE, [random.normal(0, 10, (400, 1))])
    p = [conformal_test(calibration, {"client/p50_ms": random.normal(0, 10, 6)}, 6, 0.05).p for _ in range(400)]
    assert np.mean(np.array(p) <= 0.05) < 0.12  # 26 % if each window were tested for itself


def test_a_series_that_jumps_by_itself_hides_nothing_of_one_that_never_does():
    """One look in ten has a stall of 50 to 500 ms somewhere; an error share that is always 0 rises to 0.1."""
    random = np.random.default_rng(0)
    series = ("client/p50_ms", "client/error_share")

    def quiet(count: int) -> np.ndarray:
        p50 = 15.0 + random.normal(0, 1, count) + (random.uniform(size=count) < 0.03) * random.uniform(50, 500, count)
        return np.stack([p50, np.zeros(count)], axis=1)

    calibration = Calibration(series, SHAPE, [quiet(400)])
    calm = {"client/p50_ms": np.zeros(4), "client/error_share": np.full(4, 0.1)}
    found = conformal_test(calibration, calm, UNIT_WINDOWS, 0.05)
    assert found.p <= 0.05
    assert set(found.moved(0.05)) == {"client/error_share"}
    jumps = [
        conformal_test(calibration, dict(zip(series, (quiet(4) - [15.0, 0.0]).T, strict=True)), UNIT_WINDOWS, 0.05).p
        for _ in range(400)
    ]
    assert np.mean(np.array(jumps) <= 0.05) < 0.08


@pytest.mark.parametrize("heaviness", [2.0, 4.0, 1e6])
def test_however_heavy_the_tails_of_many_series_a_campaigns_past_alarms_hardly_more_than_nominal(heaviness):
    """Measured by tails in which it had no part, what is nothing alarmed in a third of all cases with the heaviest."""
    random = np.random.default_rng(0)
    series = tuple(f"replica-{n}/p50_ms" for n in range(12))

    def drawn(windows: int) -> Calibration:
        noise = 100.0 * random.standard_t(heaviness, (rows(windows), len(series)))
        return Calibration(series, SHAPE, [noise])

    def p() -> float:
        past, (unit,) = drawn(80 + 4 + UNIT_WINDOWS - 1), drawn(4 + UNIT_WINDOWS).units(UNIT_WINDOWS)
        assert past.size(UNIT_WINDOWS) == 80
        return conformal_test(past, dict(zip(series, unit.T, strict=True)), UNIT_WINDOWS, 0.05).p

    # Units overlap: of as many there are fewer independent ones, and more than nominal has to be borne with.
    assert np.mean([p() <= 0.05 for _ in range(100)]) < 0.15


def test_units_that_share_time_are_near_and_no_others():
    calibration = Calibration(("client/p50_ms",), SHAPE, [np.ones((rows(14), 1)), np.ones((rows(12), 1))])
    places = calibration.places(6)
    assert len(places) == calibration.size(6) == 5 + 3
    near = np.abs(places[:, None] - places) < 6
    assert near[:5, :5].all()
    assert near[5:, 5:].all()
    assert not near[:5, 5:].any()


def test_units_of_which_nothing_was_known_are_no_yardstick():
    stretch = np.zeros((100, 1))
    stretch[:60] = np.nan
    calibration = Calibration(("client/error_share",), SHAPE, [stretch])
    found = conformal_test(calibration, {"client/error_share": np.full(4, 1.0)}, UNIT_WINDOWS, 0.05)
    assert found.p > 1 / (calibration.size(UNIT_WINDOWS) + 1)


def test_e_values_calibrate():
    p = np.random.default_rng(0).uniform(size=200_000)
    assert np.mean(0.5 / np.sqrt(p)) == pytest.approx(1.0, abs=0.02)
    assert e_value(1 / 81) ** 2 >= 20.0 > e_value(1 / 79) ** 2


# ---- windows --------------------------------------------------------------------------------------------------------


def test_windows_are_cut_where_they_should_be():
    snapshots = [Snapshot(0.5 * i, {"client/p50_ms": float(i)}) for i in range(1, 13)]
    medians = window_medians(snapshots, ["client/p50_ms"], 0.0, SHAPE)
    assert medians[:, 0].tolist() == [3.5, 6.5, 9.5]


def test_a_window_of_which_less_than_half_is_known_is_unknown():
    snapshots = [Snapshot(0.5 * i, {"client/p50_ms": 1.0} if i in (1, 2) else {}) for i in range(1, 7)]
    assert np.isnan(window_medians(snapshots, ["client/p50_ms"], 0.0, SHAPE)).all()


def test_units_overlap_and_never_cross_a_gap():
    calibration = Calibration(("client/p50_ms",), SHAPE, [np.ones((rows(12), 1)), np.full((rows(11), 1), 7.0)])
    assert calibration.size(6) == len(calibration.units(6)) == 3 + 2
    assert np.all(calibration.units(6) == 0.0)


def test_an_earlier_calibration_counts_only_while_the_cluster_is_as_it_was():
    random = np.random.default_rng(0)
    now = Calibration(("client/p50_ms", "client/error_share"), SHAPE, [random.normal(15, 1, (40, 2))])
    assert now.resembles([random.normal(15, 1, (80, 2))])
    assert not now.resembles([random.normal(60, 1, (80, 2))])
    assert not now.resembles([])
