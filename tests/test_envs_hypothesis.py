"""Whether promises are kept now, and since when: what is missing never counts as kept."""

from __future__ import annotations

import pytest

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
