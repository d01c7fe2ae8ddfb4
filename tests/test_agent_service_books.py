"""What campaigns of a service cost and earn: harm, debts and rungs, whoever was killed in the middle."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy.exc

from actuators.clock import ManualClock
from actuators.errors import Unsafe
from actuators.fault import Fault, Injection, Target
from agent.findings.record import SCHEMA_VERSION
from agent.interruption import Interruption
from agent.service import ladder, retention
from agent.service.account import Account, harm_min
from agent.service.settings import Ladder
from agent.service.store import Rung, Spent, Store
from envs.outcome import Outcome
from envs.scoring import Verdict
from safety.journal import CLEAN, INTENDED, Journal
from safety.lease import LeaseLost
from safety.limits import Limits
from safety.supervisor import Stop
from tests.services import NOON, Watched, outcome, when

# ---- what is earned -------------------------------------------------------------------------------------------------


def test_trust_is_earned_rung_by_rung_and_lost_at_once():
    rules = Ladder(promote_after=2)
    rung = Rung(0, 0)
    for expected in ((0, 1), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)):
        rung = ladder.after_campaign(rung, None, rules)
        assert (rung.rung, rung.clean) == expected
    rung = ladder.after_campaign(rung, "a leak", rules)
    assert rung == Rung(1, 0)
    assert ladder.after_campaign(Rung(0, 1), "a leak", rules) == Rung(0, 0)


def test_no_rung_allows_more_than_the_limits():
    wide = Limits(max_instances=3, max_share=0.5, whole_component=("web",))
    assert ladder.limits_on(2, wide) == wide
    for rung in (0, 1):
        narrow = ladder.limits_on(rung, wide)
        assert (narrow.max_instances, narrow.max_share, narrow.whole_component) == (1, 0.0, ())
    assert ladder.limits_on(1, Limits()).max_instances == 0


def test_the_first_rung_is_a_dry_run_of_which_nothing_is_learnt(watched):
    seen = watched(ladder={"begin": 0, "promote_after": 1}, campaigns=2)
    seen.service.run()
    dry, real = seen.runs()
    assert all(o["verdict"] in {"invalid", "resilient"} for o in dry["outcomes"])
    assert any(o["verdict"] not in {"invalid"} and o["fault"] for o in real["outcomes"])
    learnt = seen.store.experiences(NOON + timedelta(days=1), 7.0).experiences
    assert 0 < len(learnt) <= len([o for o in real["outcomes"] if o["fault"]])


def test_who_only_plans_earns_no_more_than_to_act(watched):
    seen = watched(ladder={"begin": 0, "promote_after": 1}, campaigns=3)
    seen.service._dry_run = True
    seen.service.run()
    assert seen.said("rung") == ["from a dry run to one instance: 1 clean campaigns"]


# ---- what is harm ---------------------------------------------------------------------------------------------------


def test_harm_is_counted_from_injection_to_recovery_never_too_little():
    assert harm_min(outcome()) == pytest.approx(0.5)
    assert harm_min(outcome(Verdict.RESILIENT)) == 0.0
    # What did not recover by itself: repairs, each waited for, come after the phases.
    assert harm_min(outcome(recovered_s=None, cost_min=3.5)) == pytest.approx(3.5)
    assert harm_min(outcome(Verdict.RESILIENT, recovered_s=None, cost_min=3.5)) == 0.0


@pytest.mark.parametrize(
    ("cause", "minutes"),
    [
        ("telemetry", 1 / 6),
        ("interrupted", 1 / 6),
        ("limit", 1 / 6),
        ("expired", 0.0),
        ("finished", 0.0),
        ("lapsed", 0.0),
    ],
)
def test_a_fault_that_was_taken_out_before_its_time_is_harm_as_long_as_it_was_in_force(cause, minutes):
    stopped = Stop(cause, "because", clean=True)
    assert harm_min(replace(outcome(Verdict.INVALID), stop=stopped)) == pytest.approx(minutes)
    assert harm_min(replace(outcome(), stop=stopped)) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("cause", "is_asked", "trouble"),
    [
        ("telemetry", False, "telemetry was lost: because"),
        ("watchdog", False, "without a watchdog: because"),
        ("lease", False, "the lease was lost: because"),
        ("records", False, None),  # a database that somebody holds for a while
        ("limit", False, None),
        ("lever", False, None),
        ("watchdog", True, None),  # systemd sends everybody SIGTERM at once
        ("telemetry", True, "telemetry was lost: because"),
    ],
)
def test_who_loses_telemetry_watchdog_or_lease_in_a_fault_is_in_trouble(tmp_path, cause, is_asked, trouble):
    store, asked = Store(tmp_path / "service.db"), Interruption()
    account = Account(store, lambda: "2026-11-27", lambda: NOON, lambda: 10.0, asked)
    if is_asked:
        asked.ask("SIGTERM")
    account.outcome(replace(outcome(Verdict.INVALID), stop=Stop(cause, "because", clean=True)))
    assert account.trouble == trouble
    store.close()


# ---- what is charged ------------------------------------------------------------------------------------------------


def test_what_a_campaign_costs_counts_for_the_day(watched):
    seen = watched()
    seen.service.run()
    (run,) = seen.runs()
    spent = seen.store.spent("2026-11-27")
    assert spent.minutes == pytest.approx(run["run"]["spent_min"], rel=0.02)
    broken = [outcome for outcome in run["outcomes"] if outcome["fault"] and outcome["broken"]]
    assert (spent.harm_min > 0) == bool(broken)
    injected = [outcome["injection_id"] for outcome in run["outcomes"] if outcome["injection_id"] is not None]
    assert injected
    assert all(map(seen.store.is_paid, injected))


@pytest.mark.parametrize(
    ("is_dry", "error", "harm_min", "rung"),
    [
        (False, Unsafe("cut off"), 0.5, None),
        (False, LeaseLost("taken over"), 0.5, Rung(1, 0)),
        (False, KeyError("a defect"), 0.5, Rung(1, 0)),
        (True, Unsafe("cut off"), 0.0, None),
    ],
    ids=["unsafe", "lease", "defect", "dry run"],
)
def test_a_campaign_that_ends_in_the_middle_of_a_fault_is_charged_its_harm(
    watched, journal, monkeypatch, is_dry, error, harm_min, rung
):
    seen = watched(ladder={"begin": 0 if is_dry else 2, "promote_after": 1})

    def interrupted(self):
        now = ManualClock().now()
        injection = Injection("bb-cut", Fault("pod.pause", Target("web"), 0.5, 10.0), {}, now, now.after(10.0), 1)
        agent = Journal(seen.folder / "journal.db", ManualClock(), "agent")
        agent.intend(injection)
        agent.mark(injection, "clean")
        agent.close()
        for event, after_s in (("intended", 0), ("clean", 30)):
            at = (NOON + timedelta(seconds=after_s)).isoformat(timespec="milliseconds")
            journal._db.execute("UPDATE entries SET at = ? WHERE event = ? AND injection = 'bb-cut'", (at, event))
        self.folder.note(state="running", fencing_token=1)
        raise error

    monkeypatch.setattr("agent.run.Run.execute", interrupted)
    monkeypatch.setattr(seen.service, "_pause", lambda seconds: None)
    with pytest.raises(KeyError) if isinstance(error, KeyError) else nullcontext():
        seen.service.run()
    assert seen.store.spent("2026-11-27") == Spent(0.0, harm_min)
    assert seen.store.rung() == rung
    assert any("fails" in text for text in seen.said("campaign"))
    ((_, facts),) = retention.own_runs(seen.settings.runs_dir)
    assert facts["owes"] is False


def test_what_could_not_be_charged_is_charged_before_anything_begins(watched, monkeypatch):
    """A memory that can be read and not written, from the first fault of a campaign on."""
    seen = watched(campaigns=2, campaign_min=60.0)
    spend, learn, denied = seen.store.spend, seen.store.learn, []

    def failing(day: str, minutes: float, harm_min: float = 0.0, injections: tuple[str, ...] = ()) -> None:
        if denied:
            denied.append((minutes, harm_min))
            raise sqlalchemy.exc.OperationalError("UPDATE", None, sqlite3.OperationalError("readonly database"))
        spend(day, minutes, harm_min, injections)

    def learnt(outcome: Outcome, at: datetime) -> None:
        learn(outcome, at)
        if outcome.fault is not None and outcome.score.broken and not denied:
            denied.append((0.0, 0.0))

    monkeypatch.setattr(seen.store, "spend", failing)
    monkeypatch.setattr(seen.store, "learn", learnt)
    pauses = []
    monkeypatch.setattr(seen.service, "_pause", pauses.append)
    turns = []

    def mended() -> None:
        seen.spent, seen.begun = seen.store.spent("2026-11-27"), len(seen.runs())
        denied.clear()
        seen.store.learn = learn
        seen.service._left = 0

    when(seen, lambda: turns.append(None) or len(turns) > 3, mended)
    seen.service.run()
    assert pauses == [30.0], "as after every campaign that fails"
    assert seen.begun == 1, "nothing begins while nothing can be charged"
    (run,) = seen.runs()
    seen.service._books.catch_up()
    after = seen.store.spent("2026-11-27")
    assert after.minutes == pytest.approx(run["run"]["spent_min"], rel=0.02)
    assert after.minutes > seen.spent.minutes
    assert seen.store.rung() == Rung(1, 0), "an error of the tool costs a rung, sooner or later"


def test_a_memory_that_cannot_be_written_is_no_time_to_begin(watched, monkeypatch):
    seen = watched()
    assert seen.service.hindrance() is None
    with seen.store._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA query_only=1")
    with pytest.raises(sqlalchemy.exc.OperationalError, match="readonly"):
        seen.service.hindrance()


# ---- what was killed ------------------------------------------------------------------------------------------------


def killed_run(
    seen: Watched, name: str = "left", *, paid: Sequence[str] = ("paid",), token: int = 7, **facts: object
) -> Path:
    """Leaves what a killed campaign does: a fault of 20 s, one of 30 s, and others' beside them.

    All of them are by `agent 1`, as in a container: it is the lease's token that tells whose they are.

    Args:
        seen: whose campaign it was.
        name: of its run.
        paid: which of its faults, `paid` and `unpaid`, are counted already.
        token: its agent's.
        facts: of the run, beside or in place of the usual ones.
    """
    folder = seen.settings.runs_dir / name
    folder.mkdir(parents=True)
    known = {
        "schema_version": SCHEMA_VERSION,
        "by": retention.BY,
        "cluster": seen.settings.cluster.id,
        "state": "running",
        "started_at": "2026",
        "rung": 2,
        "fencing_token": token,
        "journal_from": seen.journal.last_seq(),
        "owes": True,
    }
    (folder / "run.json").write_text(json.dumps(known | facts))
    (folder / "outcomes.jsonl").write_text(json.dumps({"injection_id": f"{name}-paid"}) + "\n{")
    seen.store.spend("2026-11-27", 0.0, 0.0, [f"{name}-{each}" for each in paid])
    written = [
        ("paid", token, 0, 20),
        ("by-hand", token - 1, 40, None),
        ("unpaid", token, 60, 90),
        ("later", token + 1, 110, None),
    ]
    now, fault = ManualClock().now(), Fault("pod.pause", Target("web"), 0.5, 10.0)
    book = Journal(seen.folder / "journal.db", ManualClock(), "agent 1")
    for suffix, of_whom, begun_s, gone_s in written:
        injection = Injection(f"{name}-{suffix}", fault, {}, now, now.after(10.0), of_whom)
        book.intend(injection)
        if gone_s is not None:
            book.mark(injection, CLEAN)
        for event, after_s in ((INTENDED, begun_s), (CLEAN, gone_s or 0)):
            at = (NOON + timedelta(seconds=after_s)).isoformat(timespec="milliseconds")
            told = "UPDATE entries SET at = ? WHERE event = ? AND injection = ?"
            book._db.execute(told, (at, event, injection.id))
    book.close()
    return folder


def test_a_fault_in_whose_middle_the_service_was_killed_is_charged_once_and_costs_a_rung(watched, journal):
    seen = watched(campaigns=0)
    folder = killed_run(seen)
    seen.service.run()
    assert json.loads((folder / "run.json").read_text())["state"] == "killed"
    assert seen.store.spent("2026-11-27") == Spent(0.5, 0.5)
    assert seen.store.rung() == Rung(1, 0)
    (told,) = seen.said("rung")
    assert told == "from all that the limits allow to one instance: killed in the middle of a fault"
    facts = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(facts | {"state": "running"}))  # killed before the record was closed
    again = watched(campaigns=0)
    again.service.run()
    assert json.loads((folder / "run.json").read_text())["state"] == "killed"
    assert again.store.spent("2026-11-27") == Spent(0.5, 0.5)
    assert again.store.rung() == Rung(1, 0)


@pytest.mark.parametrize(
    ("facts", "spent"),
    [
        ({"state": "interrupted", "owes": False}, Spent()),
        ({"dry_run": True}, Spent(0.5, 0.0)),
        ({"rung": 0}, Spent(0.5, 0.0)),
    ],
)
def test_an_orderly_end_is_no_trouble_and_a_dry_run_no_harm(watched, journal, facts, spent):
    seen = watched(campaigns=0)
    killed_run(seen, **facts)
    seen.service.run()
    assert seen.store.spent("2026-11-27") == spent
    assert seen.store.rung() is None


@pytest.mark.parametrize(
    ("facts", "paid", "spent", "rung"),
    [
        ({"state": "failed", "ended_by": "OperationalError: full"}, (), 50 / 60, Rung(1, 0)),
        ({"state": "failed", "ended_by": "OperationalError: full"}, ("paid",), 0.5, Rung(1, 0)),
        ({"state": "failed", "ended_by": "the lever is engaged", "trouble": None}, (), 50 / 60, None),
        ({"state": "stopped", "ended_by": "x", "trouble": "telemetry was lost"}, ("paid", "unpaid"), 0.0, Rung(1, 0)),
        ({"state": "done", "ended_by": "the budget is spent"}, (), 50 / 60, None),
        ({"state": "done", "ended_by": "the budget is spent"}, ("paid", "unpaid"), 0.0, None),
        ({"state": "running"}, ("paid",), 0.5, Rung(1, 0)),
        ({"state": "running"}, (), 50 / 60, Rung(1, 0)),
    ],
)
def test_what_a_campaign_still_owed_when_its_service_ended_is_charged_by_the_next(
    watched, journal, facts, paid, spent, rung
):
    """A full disk, and then somebody loses patience: an outcome alone does not mean that it was counted."""
    seen = watched(campaigns=0)
    folder = killed_run(seen, paid=paid, **facts)
    seen.service.run()
    kept = json.loads((folder / "run.json").read_text())
    assert kept["owes"] is False
    assert kept["state"] == ("killed" if facts["state"] == "running" else facts["state"])
    assert seen.store.spent("2026-11-27") == Spent(pytest.approx(spent), pytest.approx(spent))
    assert seen.store.rung() == rung
    again = watched(campaigns=0)
    again.service.run()
    assert again.store.spent("2026-11-27") == seen.store.spent("2026-11-27")
    assert again.store.rung() == rung


def test_a_rung_is_lost_once_wherever_the_service_ends_between_its_books(watched, monkeypatch):
    """A disk that is full from the journal's next note on, and a service that is ended before there is room."""
    seen = watched()
    note = seen.journal.note

    def full(event: str, reason: str) -> None:
        if "fails" in reason:
            raise sqlite3.OperationalError("database or disk is full")
        note(event, reason)

    def failing(self):
        raise OSError("Input/output error")

    monkeypatch.setattr("agent.run.Run.execute", failing)
    monkeypatch.setattr(seen.journal, "note", full)
    monkeypatch.setattr(seen.service, "_pause", lambda seconds: None)
    seen.service.run()
    assert seen.store.rung() == Rung(1, 0)
    ((folder, facts),) = retention.own_runs(seen.settings.runs_dir)
    assert (facts["owes"], facts["trouble"]) == (True, "OSError: Input/output error")
    monkeypatch.setattr(seen.journal, "note", note)
    (folder / "run.json").write_text(json.dumps(facts | {"state": "failed"}))
    again = watched(campaigns=0)
    again.service.run()
    assert again.store.rung() == Rung(1, 0)
    ((_, facts),) = retention.own_runs(seen.settings.runs_dir)
    assert facts["owes"] is False


def test_a_fault_that_nobody_saw_gone_counts_until_its_deadline(watched, journal):
    seen = watched(campaigns=0)
    killed_run(seen)
    journal._db.execute("DELETE FROM entries WHERE injection = 'left-unpaid' AND event = 'clean'")
    receipt = "SELECT seq, receipt FROM entries WHERE injection = 'left-unpaid'"
    ((seq, text),) = journal._db.execute(receipt)
    journal._db.execute("INSERT INTO standing VALUES ('left-unpaid', ?, 'intended', ?)", (seq, text))
    seen.wall.at = NOON + timedelta(hours=60)
    seen.service.run()
    assert seen.store.spent("2026-11-27") == Spent(pytest.approx(10.0 / 60.0), pytest.approx(10.0 / 60.0))


def test_a_memory_that_cannot_be_written_at_the_start_is_waited_for_and_then_told_what_was_killed(watched, journal):
    seen = watched()
    killed_run(seen)
    with seen.store._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA query_only=1")
    turns, runs = [], []

    def states() -> list[str]:
        return [facts["state"] for _, facts in retention.own_runs(seen.settings.runs_dir)]

    def mended() -> None:
        runs.append(states())
        with seen.store._engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA query_only=0")

    when(seen, lambda: turns.append(None) or len(turns) > 3, mended)
    seen.service.run()
    assert runs == [["running"]], "nothing begins before"
    assert states() == ["killed", "done"]
    assert seen.store.spent("2026-11-27").harm_min >= 0.5
    assert seen.said("rung")[0].endswith("killed in the middle of a fault")


@pytest.mark.parametrize(("killed", "pauses"), [(1, []), (2, [30.0]), (4, [120.0])])
def test_campaigns_that_are_killed_one_after_the_other_begin_ever_more_seldom(
    watched, journal, monkeypatch, killed, pauses
):
    seen = watched(campaigns=0)
    for number in range(killed):
        killed_run(seen, f"left-{number}", token=10 * number + 7)
    waited: list[float] = []
    monkeypatch.setattr(seen.service, "_pause", waited.append)
    seen.service.run()
    assert waited == pauses
    assert seen.store.spent("2026-11-27") == Spent(0.5 * killed, 0.5 * killed)
