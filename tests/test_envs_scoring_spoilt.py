"""Telemetry that is spoilt in every way: nothing is called resilient or a weakness by accident.

Fault-free time that is spoilt must never be a weakness; an outage that is spoilt must never be resilient, unless what
is left of it breaks no promise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.scoring import Record, Verdict
from envs.telemetry.snapshot import Snapshot
from tests.test_envs_scoring import SERIES, TOPOLOGY, calibrated, down_for, nothing, recorded

SCORER = calibrated()
OUTAGE_S = 5.0
OFTEN = settings(max_examples=150)

Spoiling = Callable[[list[Snapshot]], list[Snapshot]]


def without(name: str, chosen: list[int]) -> Spoiling:
    """A metric that is dropped at some looks."""

    def spoil(looks: list[Snapshot]) -> list[Snapshot]:
        gone = {index % len(looks) for index in chosen}
        return [
            replace(look, values={key: value for key, value in look.values.items() if key != name or n not in gone})
            for n, look in enumerate(looks)
        ]

    return spoil


def burst(name: str, begins: int, lasts: int, value: float) -> Spoiling:
    """NaN, or infinity, for some looks in a row."""

    def spoil(looks: list[Snapshot]) -> list[Snapshot]:
        return [
            replace(look, values=look.values | {name: value}) if begins <= n < begins + lasts else look
            for n, look in enumerate(looks)
        ]

    return spoil


def blind(begins: int, lasts: int) -> Spoiling:
    """Looks that show nothing at all."""
    return lambda looks: [replace(k, values={}) if begins <= n < begins + lasts else k for n, k in enumerate(looks)]


def lost(chosen: list[int]) -> Spoiling:
    """Looks that never arrived."""

    def spoil(looks: list[Snapshot]) -> list[Snapshot]:
        gone = {index % len(looks) for index in chosen}
        return [look for n, look in enumerate(looks) if n not in gone]

    return spoil


def doubled(chosen: list[int]) -> Spoiling:
    """Looks that arrive twice, the second time with the same stamp."""

    def spoil(looks: list[Snapshot]) -> list[Snapshot]:
        twice = {index % len(looks) for index in chosen}
        return [each for n, look in enumerate(looks) for each in ([look, look] if n in twice else [look])]

    return spoil


NAMES = st.sampled_from(SERIES)
LOOKS = st.lists(st.integers(0, 200), max_size=40)
BEGINS, LASTS = st.integers(0, 66), st.integers(1, 40)
SPOILINGS = st.lists(
    st.one_of(
        st.builds(without, NAMES, LOOKS),
        st.builds(burst, NAMES, BEGINS, LASTS, st.sampled_from([math.nan, math.inf, -math.inf])),
        st.builds(blind, BEGINS, LASTS),
        st.builds(lost, LOOKS),
        st.builds(doubled, LOOKS),
    ),
    min_size=1,
    max_size=3,
)


def spoilt(record: Record, spoilings: list[Spoiling]) -> Record:
    looks = list(record.snapshots)
    for spoil in spoilings:
        looks = spoil(looks)
    return replace(record, snapshots=looks)


@OFTEN
@given(SPOILINGS, st.integers(1, 5))
def test_spoilt_fault_free_time_is_never_a_weakness(spoilings, seed):
    score = SCORER.score(spoilt(recorded(nothing, seed=seed), spoilings), TOPOLOGY)
    assert score.evidence.verdict is not Verdict.WEAKNESS, score.reason
    assert score.evidence.e_value <= 20.0


def seen_broken(record: Record) -> int:
    """Returns how many looks in a row show the outage at most."""
    longest = now = 0
    for look in record.snapshots:
        value = look.values.get("client/error_share", math.nan)
        now = now + 1 if math.isfinite(value) and value > 0.10 and look.at_s > 100.0 else 0
        longest = max(longest, now)
    return longest


@OFTEN
@given(SPOILINGS, st.integers(1, 5))
def test_a_spoilt_outage_is_never_called_resilient_while_it_can_be_seen_or_is_hidden(spoilings, seed):
    record = spoilt(recorded(down_for(OUTAGE_S), seed=seed, recovered_s=105.5), spoilings)
    score = SCORER.score(record, TOPOLOGY)
    if score.evidence.verdict is Verdict.RESILIENT:
        known = [
            look.at_s for look in record.snapshots if math.isfinite(look.values.get("client/error_share", math.nan))
        ]
        gaps = np.diff([99.0, *[at_s for at_s in known if 100.0 < at_s <= 106.0], 106.0])
        assert seen_broken(record) < 3, score.reason
        assert gaps.max() <= 3.0, f"hidden for {gaps.max()} s, and called resilient: {score.reason}"


@OFTEN
@given(st.integers(1, 5), st.lists(st.integers(0, 60), max_size=8))
def test_looks_that_come_twice_change_no_verdict(seed, chosen):
    for change in (nothing, down_for(OUTAGE_S)):
        record = recorded(change, seed=seed, recovered_s=105.5)
        once, twice = (SCORER.score(each, TOPOLOGY) for each in (record, spoilt(record, [doubled(chosen)])))
        assert once.evidence.verdict is twice.evidence.verdict
