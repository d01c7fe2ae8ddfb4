"""Whether promises are kept now, and since when: what is missing never counts as kept."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from actuators.errors import BadInput
from envs.hypothesis import Clause, Hypothesis, Mechanism, settled_since
from envs.telemetry.snapshot import Snapshot

ERRORS = "client/error_share"
PROMISES = Hypothesis((Clause(ERRORS, Mechanism.UNAVAILABLE, at_most=0.1),), samples=3)
WELL, BAD, UNKNOWN = 0.0, 1.0, None


def looks(*values: float | None) -> list[Snapshot]:
    return [Snapshot(0.5 * n, {} if value is None else {ERRORS: value}) for n, value in enumerate(values)]


@pytest.mark.parametrize(
    ("newest", "steady"),
    [
        ((WELL, WELL, WELL), True),
        ((BAD, BAD, WELL), True),
        ((UNKNOWN, BAD, WELL), True),
        ((BAD, BAD, BAD), False),
        ((UNKNOWN, BAD, BAD), None),
        ((BAD, UNKNOWN, BAD), None),
        ((UNKNOWN, UNKNOWN, UNKNOWN), None),
        ((WELL, WELL), None),
    ],
)
def test_a_promise_is_kept_where_it_was_seen_to_be_kept_lately(newest, steady):
    unsteady = PROMISES.unsteady(looks(*newest))
    assert (None if unsteady is None else unsteady == ()) is steady


@pytest.mark.parametrize(
    ("values", "since_s"),
    [
        ((WELL, WELL, WELL), 0.0),
        ((BAD, BAD, BAD, WELL), 1.5),
        ((BAD, UNKNOWN, BAD, WELL), 1.5),
        ((BAD, BAD, WELL), 0.0),
        ((WELL, BAD, BAD, BAD), None),
        ((WELL, UNKNOWN, UNKNOWN, UNKNOWN), None),
        ((WELL, WELL), None),
        ((), None),
    ],
)
def test_of_too_few_looks_nobody_can_tell_since_when(values, since_s):
    assert settled_since(PROMISES, looks(*values), 0.0) == since_s


TRAINS = Clause("trainer/steps_per_s", Mechanism.STUCK, must="return", at_least=10.0, within_s=40.0)


@pytest.mark.parametrize("clause", [PROMISES.clauses[0], TRAINS], ids=["at_most", "at_least"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_promise_that_could_never_be_broken_or_kept_is_refused(clause, value):
    for name in ("at_most", "at_least", "within_s", "recover_within_s"):
        if getattr(clause, name) is not None:
            with pytest.raises(
                BadInput, match=rf"the clause on {clause.series}: {name} is .*; allowed are finite values"
            ):
                replace(clause, **{name: value})


@pytest.mark.parametrize("name", ["within_s", "recover_within_s"])
def test_no_deadline_lies_before_its_beginning(name):
    with pytest.raises(BadInput, match=f"{name} is -0.5; allowed are finite values from 0"):
        replace(TRAINS, **{name: -0.5})


@pytest.mark.parametrize("samples", [0, -1, math.nan, math.inf])
def test_of_no_sample_nothing_could_be_told(samples):
    with pytest.raises(BadInput, match=r"hypothesis.samples is .*; allowed are whole numbers from 1"):
        Hypothesis(PROMISES.clauses, samples=samples)


def test_two_promises_about_one_series_are_one_too_many():
    """Each would be tested on windows of its own, and a series has one test: of the first nobody would ever hear."""
    holds = replace(TRAINS, must="hold", within_s=None)
    owes = replace(TRAINS, must="alert", mechanism=Mechanism.SILENT)
    with pytest.raises(BadInput, match=r"has 2 clauses on trainer/steps_per_s; allowed is one") as refused:
        Hypothesis((TRAINS, *PROMISES.clauses, holds))
    assert "\n" not in str(refused.value)
    assert Hypothesis((TRAINS, *PROMISES.clauses, owes)).clauses[-1] == owes
