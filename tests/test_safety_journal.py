from __future__ import annotations

import multiprocessing
import sqlite3
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from actuators.clock import ManualClock
from actuators.errors import Unsafe
from actuators.fault import Fault, Injection, Target
from safety.journal import APPLIED, CLEAN, LEAKED, REVERTING, Journal

FAULT = Fault("pod.pause", Target("web"), 0.5, 10.0)


def injection(name: str, clock: ManualClock) -> Injection:
    now = clock.now()
    return Injection(name, FAULT, {"instances": ["a"], "ünïcode": None}, now, now.after(10.0), 7)


def test_a_receipt_comes_back_as_it_went_in(journal, clock):
    journal.intend(injection("i1", clock))
    assert journal.open_injections() == [injection("i1", clock)]


def test_open_are_those_not_yet_clean_or_leaked_newest_first(journal, clock):
    for name in ("i1", "i2", "i3", "i4"):
        journal.intend(injection(name, clock))
    journal.mark(injection("i1", clock), APPLIED)
    journal.mark(injection("i2", clock), CLEAN)
    journal.mark(injection("i3", clock), LEAKED, "still there")
    journal.mark(injection("i4", clock), REVERTING)
    assert [i.id for i in journal.open_injections()] == ["i4", "i1"]
    assert [i.id for i in journal.leaked()] == ["i3"]


def test_a_leak_ends_only_when_cleanliness_is_observed_later(journal, clock):
    journal.intend(injection("i1", clock))
    journal.mark(injection("i1", clock), LEAKED)
    journal.mark(injection("i1", clock), REVERTING)
    assert [i.id for i in journal.open_injections()] == ["i1"]
    journal.mark(injection("i1", clock), CLEAN)
    assert journal.open_injections() == journal.leaked() == []


def test_entries_tell_who_did_what_and_why_in_order(journal, clock):
    journal.note("refused", "no opt-in")
    journal.intend(injection("i1", clock))
    entries = list(journal.entries())
    assert [(e.event, e.by) for e in entries] == [("refused", "test"), ("intended", "test")]
    assert entries[0].reason == "no opt-in"
    assert list(journal.entries(after_seq=entries[-1].seq)) == []


def test_whose_faults_they_are_is_told_by_the_token(journal, clock):
    for name, token in (("i1", 7), ("i2", 8), ("i3", 7)):
        journal.intend(replace(injection(name, clock), token=token))
        journal.mark(injection(name, clock), CLEAN)
    assert journal.intended_under(7, 0) == ["i1", "i3"]
    assert journal.intended_under(7, 2) == ["i3"]
    assert journal.intended_under(9, 0) == []
    assert journal.last_seq() == 6
    journal._db.execute("UPDATE entries SET receipt = '{}' WHERE injection = 'i2'")
    with pytest.raises(Unsafe, match="whose faults they were is unknown"):
        journal.intended_under(7, 0)
    assert journal.intended_under(7, 4) == ["i3"], "what came before is nobody's business"


def test_what_is_intended_is_on_disk_for_a_fresh_process(tmp_path, clock, journal):
    journal.intend(injection("i1", clock))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_open_ids, (tmp_path / "journal.db",)) == ["i1"]


def _open_ids(path):
    journal = Journal(path, ManualClock(), "fresh")
    try:
        return [injection.id for injection in journal.open_injections()]
    finally:
        journal.close()


def test_a_journal_of_the_first_version_is_taken_over_with_what_it_holds_open(tmp_path, clock):
    path = tmp_path / "journal.db"
    journal = Journal(path, clock, "test")
    for name in ("i1", "i2", "i3"):
        journal.intend(injection(name, clock))
    journal.mark(injection("i2", clock), CLEAN)
    journal.mark(injection("i3", clock), LEAKED)
    for statement in ("DROP TABLE standing", "DROP TRIGGER stands", "DROP TRIGGER is_clean", "PRAGMA user_version=1"):
        journal._db.execute(statement)
    journal.close()
    taken_over = Journal(path, clock, "test")
    assert [i.id for i in taken_over.open_injections()] == ["i1"]
    assert [i.id for i in taken_over.leaked()] == ["i3"]
    taken_over.mark(injection("i1", clock), CLEAN)
    assert taken_over.open_injections() == []
    taken_over.close()


def test_old_entries_are_forgotten_but_none_of_what_is_not_clean(journal, clock):
    for name, last in (("clean", CLEAN), ("open", APPLIED), ("leaked", LEAKED)):
        journal.intend(injection(name, clock))
        journal.mark(injection(name, clock), last)
    journal.note("refused", "no opt-in")
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    assert journal.forget(tomorrow - timedelta(days=2), keep=0) == 0, "nothing is that old"
    assert journal.forget(tomorrow, keep=7) == 0, "a clock that jumps ahead costs nothing that is new"
    assert journal.forget(tomorrow, keep=0) == 3
    assert [entry.injection for entry in journal.entries()] == ["open", "open", "leaked", "leaked"]
    assert [i.id for i in journal.open_injections()] == ["open"]
    assert [i.id for i in journal.leaked()] == ["leaked"]


def test_what_is_open_is_known_at_once_however_long_the_journal(journal, clock):
    """Asked twice a second for weeks: the work must not grow with what is long clean."""
    journal._db.execute("BEGIN")
    for n in range(2000):
        journal.intend(injection(f"i{n}", clock))
        journal.mark(injection(f"i{n}", clock), CLEAN)
    journal._db.execute("COMMIT")
    steps = 0

    def counted() -> int:
        nonlocal steps
        steps += 1
        return 0

    journal._db.set_progress_handler(counted, 100)
    assert journal.open_injections() == journal.leaked() == []
    assert steps < 5, "hundreds of the database's instructions, not one for every old entry"


def test_commits_are_durable_not_only_ordered(journal):
    (synchronous,) = journal._db.execute("PRAGMA synchronous").fetchone()
    (mode,) = journal._db.execute("PRAGMA journal_mode").fetchone()
    assert (synchronous, mode) == (2, "wal")  # FULL


def test_a_journal_of_another_version_is_refused_and_left_alone(tmp_path, clock):
    path = tmp_path / "journal.db"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE something (x)")
    other.execute("PRAGMA user_version=99")
    other.commit()
    other.close()
    with pytest.raises(Unsafe, match="version 99; this Backburn reads versions up to 2"):
        Journal(path, clock, "test")
    untouched = sqlite3.connect(path)
    assert untouched.execute("SELECT name FROM sqlite_master").fetchall() == [("something",)]
    assert untouched.execute("PRAGMA user_version").fetchone() == (99,)
    untouched.close()


def test_a_file_that_is_no_journal_is_refused(tmp_path, clock):
    path = tmp_path / "journal.db"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(Unsafe, match="cannot be read"):
        Journal(path, clock, "test")
