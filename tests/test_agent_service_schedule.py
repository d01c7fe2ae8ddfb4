"""When chaos is allowed: windows, freezes, midnight, clocks that are put back and forward."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agent.service.schedule import day_of, opening
from agent.service.settings import DAYS, Daily, Freeze, Http, Ladder, Schedule, Window

BERLIN = "Europe/Berlin"


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


NIGHTS = Schedule(
    timezone=BERLIN,
    windows=[Window(days=["fri", "sat"], begins=time(22), ends=time(6))],
    freezes=[Freeze(begins=datetime(2026, 11, 28, 23), ends=datetime(2026, 11, 29, 2), why="a release")],
)


@pytest.mark.parametrize(
    ("now", "is_open", "until"),
    [
        ("2026-11-27T20:59", False, "2026-11-27T21:00"),  # Friday, an hour behind Berlin
        ("2026-11-27T21:00", True, "2026-11-28T05:00"),  # over midnight, to Saturday morning
        ("2026-11-28T05:00", False, "2026-11-28T21:00"),
        ("2026-11-28T21:30", True, "2026-11-28T22:00"),  # up to the freeze
        ("2026-11-28T22:00", False, "2026-11-29T01:00"),
        ("2026-11-29T01:00", True, "2026-11-29T05:00"),  # what the freeze has left of the night
        ("2026-11-29T05:00", False, "2026-12-04T21:00"),  # next Friday
    ],
)
def test_a_window_over_midnight_with_a_freeze_in_it(now, is_open, until):
    seen = opening(NIGHTS, at(now))
    assert (seen.is_open, seen.until) == (is_open, at(until))


def test_a_freeze_says_why():
    assert opening(NIGHTS, at("2026-11-28T23:00")).why == "a release until Sun 2026-11-29 02:00 CET"


def test_without_windows_it_is_always_open_but_for_freezes():
    assert opening(Schedule(), at("2026-11-28T23:00")).until is None
    frozen = Schedule(freezes=NIGHTS.freezes)
    assert opening(frozen, at("2026-11-28T22:00")).until == at("2026-11-28T23:00")
    assert not opening(frozen, at("2026-11-28T23:30")).is_open


def test_a_freeze_longer_than_the_horizon_ends_when_it_says():
    frozen = Schedule(freezes=[Freeze(begins=datetime(2026, 1, 1), ends=datetime(2027, 1, 1))])
    assert opening(frozen, at("2026-06-01T00:00")).until == at("2027-01-01T00:00")


def test_a_freeze_for_ever_never_ends():
    for_ever = Freeze(begins=datetime(2026, 1, 1), ends=datetime(9999, 12, 31))
    for windows in ([], NIGHTS.windows):
        seen = opening(Schedule(windows=windows, freezes=[for_ever]), at("2026-06-01T00:00"))
        assert (seen.is_open, seen.until) == (False, at("9999-12-31T00:00"))


@pytest.mark.parametrize(
    ("timezone", "begins", "ends"),
    [
        ("America/New_York", "2026-01-01T00:00", "9999-12-31T23:59"),  # in UTC, it is the year 10000
        (BERLIN, "2026-01-01T00:00", "9999-12-31T23:59+00:00"),  # and in Berlin
        (BERLIN, "0001-01-01T00:00", "9999-12-31T00:00"),  # before the first year
        ("America/New_York", "0001-01-01T00:00+00:00", "9999-12-31T00:00"),
    ],
)
def test_a_freeze_up_to_the_end_of_all_calendars_freezes(timezone, begins, ends):
    schedule = Schedule(timezone=timezone, freezes=[Freeze(begins=begins, ends=ends)])
    seen = opening(schedule, at("2026-06-01T00:00"))
    assert not seen.is_open
    assert seen.until.year == 9999
    assert seen.why.startswith("frozen until")


@pytest.mark.parametrize("night", ["2026-10-24", "2026-03-28"])  # clocks go back, forward, on the morning after
def test_a_night_in_which_clocks_are_moved_is_as_long_as_it_is(night):
    every_night = Schedule(timezone=BERLIN, windows=[Window(begins=time(22), ends=time(6))])
    begins = every_night.local(datetime.fromisoformat(night).replace(hour=22)).astimezone(UTC)
    until = opening(every_night, begins).until
    assert (until - begins) == timedelta(hours=9 if "10" in night else 7)


def test_a_freeze_in_the_hour_that_clocks_leap_over_freezes_nothing():
    leapt = Freeze(begins=datetime(2026, 3, 29, 2), ends=datetime(2026, 3, 29, 3))
    assert opening(Schedule(timezone=BERLIN, freezes=[leapt]), at("2026-03-28T12:00")).until is None


def test_a_day_begins_at_local_midnight():
    assert day_of(NIGHTS, at("2026-11-27T22:59")) == "2026-11-27"
    assert day_of(NIGHTS, at("2026-11-27T23:00")) == "2026-11-28"


TIMES = st.times(min_value=time(0), max_value=time(23, 59)).map(lambda t: t.replace(second=0, microsecond=0))
WINDOWS = st.builds(Window, days=st.lists(st.sampled_from(DAYS), min_size=1, max_size=3), begins=TIMES, ends=TIMES)
SOME_TIME = datetime(2026, 3, 20)
FREEZES = st.tuples(st.integers(0, 20 * 24), st.integers(1, 72)).map(
    lambda hours: Freeze(
        begins=SOME_TIME + timedelta(hours=hours[0]), ends=SOME_TIME + timedelta(hours=hours[0] + hours[1])
    )
)
SCHEDULES = st.builds(
    Schedule,
    timezone=st.sampled_from(["UTC", BERLIN, "Asia/Kolkata", "America/St_Johns"]),
    windows=st.lists(WINDOWS, max_size=3),
    freezes=st.lists(FREEZES, max_size=2),
)


@given(SCHEDULES, st.integers(0, 20 * 24 * 60))
def test_nothing_changes_before_the_moment_that_is_named_and_everything_then(schedule, minutes):
    now = SOME_TIME.replace(tzinfo=UTC) + timedelta(minutes=minutes)
    seen = opening(schedule, now)
    if seen.until is None:
        return
    assert seen.until > now
    for share in (0.0, 0.3, 0.999):
        between = now + share * (seen.until - now)
        assert opening(schedule, between).is_open == seen.is_open
    assert opening(schedule, seen.until).is_open != seen.is_open


def test_a_closing_that_two_freezes_make_ends_where_a_window_is_met_again():
    mondays = Schedule(
        windows=[Window(days=["mon"], begins=time(0), ends=time(0, 1))],
        freezes=[
            Freeze(begins=datetime(2026, 3, 20), ends=datetime(2026, 3, 20, 1)),
            Freeze(begins=datetime(2026, 3, 20, 1), ends=datetime(2026, 4, 6, 0, 1)),
        ],
    )
    assert opening(mondays, at("2026-03-20T00:00")).until == at("2026-04-13T00:00")


@given(SCHEDULES, st.integers(0, 20 * 24 * 60))
def test_a_frozen_moment_is_never_open_and_an_open_one_lies_in_a_window(schedule, minutes):
    now = SOME_TIME.replace(tzinfo=UTC) + timedelta(minutes=minutes)
    local = schedule.local(now)
    frozen = any(schedule.local(freeze.begins) <= local < schedule.local(freeze.ends) for freeze in schedule.freezes)
    if opening(schedule, now).is_open:
        assert not frozen
        assert not schedule.windows or any(_covers(window, local) for window in schedule.windows)


def _covers(window: Window, local: datetime) -> bool:
    """Said anew, in local times alone; an hour's tolerance on the two days of a year that have one more or less."""
    for days_ago in (0, 1):
        begins = datetime.combine(local.date() - timedelta(days=days_ago), window.begins)
        ends = datetime.combine(begins.date(), window.ends)
        ends += timedelta(days=1) if ends <= begins else timedelta()
        slack = timedelta(hours=1)
        if DAYS[begins.weekday()] in window.days and begins - slack <= local.replace(tzinfo=None) < ends + slack:
            return True
    return False


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Schedule(timezone="Europe/Nowhere"), "unknown timezone 'Europe/Nowhere'"),
        (lambda: Freeze(begins=datetime(2026, 1, 2), ends="soon"), "ends"),
        (lambda: Schedule(freezes=[Freeze(begins=datetime(2026, 1, 2), ends=datetime(2026, 1, 1))]), "must end later"),
        (lambda: Window(begins="25:00", ends="06:00"), "begins"),
        (lambda: Window(days=["someday"], begins="22:00", ends="06:00"), "days"),
        (lambda: Window(begins="22:00+01:00", ends="06:00"), "times are local ones"),
        # What YAML makes of 22:00 without quotes, and what pydantic would take for 22 minutes past midnight.
        (lambda: Window(begins=1320, ends="06:00"), 'write it in quotes: "22:00"'),
        (lambda: Window(begins="22:00", ends=21600.0), 'write it in quotes: "22:00"'),
        (lambda: Window(begins="1320", ends="06:00"), 'write it in quotes: "22:00"'),
        (lambda: Window(begins=True, ends="06:00"), 'write it in quotes: "22:00"'),
        # Seconds since 1970, a freeze that protects nothing.
        (lambda: Freeze(begins=20261220, ends=20270103), 'write it in quotes: "2026-12-20T00:00"'),
        (lambda: Freeze(begins="20261220", ends="20270103"), 'write it in quotes: "2026-12-20T00:00"'),
        (lambda: Freeze(begins="2026-12-20", ends=1.8e9), 'write it in quotes: "2026-12-20T00:00"'),
        (lambda: Freeze(begins=b"20261220", ends="2027-01-03"), 'write it in quotes: "2026-12-20T00:00"'),
        (lambda: Daily(minutes=float("inf")), "finite number"),
        (lambda: Daily(harm_min=float("nan")), "finite number"),
        (lambda: Http(host="0.0.0.0"), "needs a token_file"),  # noqa: S104 (that it is refused is the point)
        (lambda: Http(host="example.org"), "needs a token_file"),
        (lambda: Ladder(begin=2, highest=1), "above highest"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValidationError, match=message):
        make()


def test_a_day_may_be_written_without_a_time_and_as_yaml_reads_it():
    written = Freeze(begins="2026-12-20", ends="2027-01-03T06:00")
    assert written == Freeze(begins=date(2026, 12, 20), ends=datetime(2027, 1, 3, 6))
    assert Window(begins="22:00", ends="06:00:30") == Window(begins=time(22), ends=time(6, 0, 30))
