"""Telling a job that hangs from one that is short of a rank, and from one that is on its way."""

from __future__ import annotations

from envs.staging.standstill import Standstill

BOTH, ONE, NEW = frozenset({"a", "b"}), frozenset({"b"}), frozenset({"c", "d"})


def moving() -> Standstill:
    standstill = Standstill(2)
    for now_s, step in enumerate([10.0, 20.0, 30.0]):
        assert standstill.lasts_s(float(now_s), BOTH, step) == 0.0
    return standstill


def test_a_whole_group_that_no_longer_moves_stands_still() -> None:
    standstill = moving()
    assert standstill.lasts_s(3.0, BOTH, 30.0) == 1.0
    assert standstill.lasts_s(9.0, BOTH, 30.0) == 7.0
    assert standstill.lasts_s(9.5, BOTH, 31.0) == 0.0


def test_a_group_that_lacks_a_rank_is_somebody_elses_business() -> None:
    standstill = moving()
    assert standstill.lasts_s(60.0, ONE, 30.0) == 0.0
    assert standstill.lasts_s(90.0, ONE, 30.0) == 0.0


def test_a_new_group_has_all_the_time_it_needs_to_begin() -> None:
    """Or a slow start would be ended again and again, and the job would never run."""
    standstill = moving()
    for now_s in (10.0, 40.0, 70.0):
        assert standstill.lasts_s(now_s, NEW, 30.0) == 0.0
    assert standstill.lasts_s(71.0, NEW, 28.0) == 0.0, "the step of the checkpoint it resumes from"
    assert standstill.lasts_s(95.0, NEW, 28.0) == 0.0
    assert standstill.lasts_s(96.0, NEW, 29.0) == 0.0
    assert standstill.lasts_s(99.0, NEW, 29.0) == 3.0


def test_nothing_is_known_before_the_first_step() -> None:
    assert Standstill(2).lasts_s(100.0, BOTH, None) == 0.0
