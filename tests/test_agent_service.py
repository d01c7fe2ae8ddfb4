"""Continuous running on simulated clusters: what begins, what waits and why, what is written down."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy.exc
from rich.console import Console

from actuators.clock import ManualClock
from actuators.errors import BadInput, Unsafe
from actuators.fault import Fault, Injection, Target
from agent.alone import alone
from agent.bench.soak import growth
from agent.findings.ledger import Ledger
from agent.findings.record import SCHEMA_VERSION
from agent.findings.report import load_run
from agent.interruption import Interruption
from agent.service import ladder, retention
from agent.service.account import Account, harm_min
from agent.service.runner import Service
from agent.service.serve import serve
from agent.service.settings import Ladder
from agent.service.status import Status
from agent.service.store import Rung, Spent, Store
from agent.settings import Settings, load
from envs.experiment import NotSteady
from envs.hypothesis import Broken, Mechanism, Phases
from envs.outcome import Outcome
from envs.scoring import Evidence, Score, Verdict
from safety.journal import CLEAN, INTENDED, LEAKED, Journal
from safety.lease import LeaseLost
from safety.lever import Lever
from safety.limits import Limits
from safety.supervisor import Stop
from tests.conftest import config_file

NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)  # a Friday
QUICK = {"campaign_min": 3.0, "pause_s": 0.0, "ladder": {"begin": 2}}


class Wall:
    """A wall clock that moves on by itself, a second per look, and when told to."""

    def __init__(self) -> None:
        self.at = NOON

    def __call__(self) -> datetime:
        self.at += timedelta(seconds=1)
        return self.at


class Watched:
    """A service on simulated clusters, with everything that can be looked at."""

    def __init__(self, folder: Path, journal: Journal, campaigns: int | None = 1, **service: object) -> None:
        self.settings = quick(folder, **service)
        self.folder, self.journal, self.wall = folder, journal, Wall()
        self.lever = Lever(self.settings.cluster_state_dir / "lever.json")
        self.lever.release("a test", "test")
        self.store, self.status = Store(folder / "service.db"), Status()
        self.service = Service(
            self.settings,
            Console(quiet=True),
            journal=journal,
            lever=self.lever,
            store=self.store,
            status=self.status,
            now=self.wall,
            campaigns=campaigns,
        )

    def said(self, event: str) -> list[str]:
        return [entry.reason for entry in self.journal.entries() if entry.event == event]

    def runs(self) -> list[dict]:
        return [load_run(folder) for folder, _ in retention.own_runs(self.settings.runs_dir)]


def quick(folder: Path, **service: object) -> Settings:
    return load(config_file(folder, scoring={"units": 24}, service=QUICK | service))


@pytest.fixture
def watched(tmp_path, journal) -> Iterator[Callable[..., Watched]]:
    made: list[Watched] = []

    def make(**service: object) -> Watched:
        made.append(Watched(tmp_path, journal, **service))
        return made[-1]

    yield make
    for each in made:
        each.store.close()


def when(watched: Watched, condition: Callable[[], bool], then: Callable[[], None]) -> None:
    """Has something done as soon as the service waits and a condition holds; it looks once per turn."""
    listen = watched.service._listen
    done = []

    def look(seconds: float) -> None:
        if not done and condition():
            done.append(True)
            then()
        listen(0.0)

    watched.service._listen = look


# ---- campaigns ------------------------------------------------------------------------------------------------------


def test_campaign_after_campaign_each_with_a_report_and_a_seed_of_its_own(watched):
    seen = watched(campaigns=2)
    seen.service.run()
    first, second = seen.runs()
    assert first["run"]["state"] == second["run"]["state"] == "done"
    assert first["settings"]["campaign"]["seed"] != second["settings"]["campaign"]["seed"]
    assert all((seen.settings.runs_dir / run["name"] / "report.html").exists() for run in (first, second))
    begun = [text for text in seen.said("campaign") if "begins" in text]
    assert len(begun) == 2
    assert "3.0 min, all that the limits allow" in begun[0]
    assert seen.said("service")[0] == "begins"
    assert seen.said("service")[-1] == "ends: its campaigns are over"


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


def test_a_day_whose_minutes_are_used_up_is_waited_out(watched):
    seen = watched(daily={"minutes": 2.0})
    seen.store.spend("2026-11-27", 1.5)
    when(seen, lambda: bool(seen.said("waiting")), lambda: setattr(seen.wall, "at", NOON + timedelta(hours=12)))
    seen.service.run()
    assert seen.said("waiting") == ["the day's 2 minutes are used up"]
    assert "begins: 2.0 min" in seen.said("campaign")[0]
    assert seen.store.spent("2026-11-28").minutes > 0


def test_harm_that_a_day_does_not_have_ends_the_campaign(watched):
    seen = watched(campaign_min=60.0, daily={"harm_min": 0.5})
    seen.service.run()
    (run,) = seen.runs()
    assert run["run"]["ended_by"] == "interrupted: the day's minutes of harm are used up"
    assert seen.service.hindrance().why == "the day's 0.5 minutes of harm are used up"


def test_a_closed_window_is_waited_for_and_an_open_one_is_not_overrun(watched):
    schedule = {"windows": [{"begins": "13:00", "ends": "13:02"}]}
    seen = watched(schedule=schedule)
    when(seen, lambda: bool(seen.said("waiting")), lambda: setattr(seen.wall, "at", NOON + timedelta(hours=1)))
    seen.service.run()
    assert seen.said("waiting") == ["outside of every window"]
    (run,) = seen.runs()
    assert run["settings"]["campaign"]["budget_min"] < 2.0
    assert run["run"]["ended_by"] == "interrupted: the window has closed", (
        "by the wall, whatever the cluster's clock says"
    )


def test_an_engaged_lever_is_waited_for_and_said_once(watched):
    seen = watched()
    seen.lever.engage("fire drill", "test")
    turns = []
    when(seen, lambda: turns.append(None) or len(turns) > 3, lambda: seen.lever.release("over", "test"))
    seen.service.run()
    assert seen.said("waiting") == ["the lever is engaged: fire drill"]
    assert len(seen.runs()) == 1


def test_a_lever_that_is_pulled_in_the_middle_ends_the_campaign(watched):
    seen = watched(campaign_min=60.0)
    learn = seen.store.learn

    def pulled(outcome: Outcome, at: datetime) -> None:
        learn(outcome, at)
        if outcome.fault is not None:
            seen.lever.engage("that is enough", "test")

    seen.store.learn = pulled
    seen.service.run()
    (run,) = seen.runs()
    assert run["run"]["ended_by"] == "the lever is engaged: that is enough"
    assert len([outcome for outcome in run["outcomes"] if outcome["fault"]]) == 1


def test_too_little_space_is_no_time_to_begin(watched):
    seen = watched(least_free_mib=1e9)
    assert "are free on the disk" in seen.service.hindrance().why


def test_after_a_leak_nothing_begins(watched, clock):
    seen, now = watched(), clock.now()
    fault = Fault("pod.pause", Target("web"), 0.5, 10.0)
    injection = Injection("bb-1", fault, {}, now, now.after(10.0), 1)
    seen.journal.intend(injection)
    seen.journal.mark(injection, LEAKED)
    assert seen.service.hindrance().why == f"1 fault(s) leaked, first {fault}; see `backburn recover`"


def test_a_campaign_that_fails_is_tried_again_later_and_costs_a_rung(watched, monkeypatch):
    seen = watched(campaigns=2, ladder={"begin": 2, "promote_after": 1})
    execute = seen.service._campaign.__globals__["Run"].execute
    broken = [OSError(28, "No space left on device")]

    def failing(self):
        if broken:
            raise broken.pop()
        return execute(self)

    monkeypatch.setattr("agent.run.Run.execute", failing)
    pauses = []
    monkeypatch.setattr(seen.service, "_pause", pauses.append)
    seen.service.run()
    assert pauses == [30.0]
    assert "fails: OSError: [Errno 28] No space left on device" in seen.said("campaign")[1]
    assert seen.said("rung")[0].startswith("from all that the limits allow to one instance: OSError")
    assert seen.said("rung")[1] == "from one instance to all that the limits allow: 1 clean campaigns"


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


def test_a_journal_that_cannot_be_read_after_a_campaign_ends_no_service(watched, monkeypatch):
    seen = watched(campaigns=2)
    open_injections, damaged = seen.journal.open_injections, [Unsafe("the journal holds what cannot be read")] * 2

    def failing():
        if damaged:
            raise damaged.pop()
        return open_injections()

    monkeypatch.setattr(seen.journal, "open_injections", failing)
    monkeypatch.setattr(seen.service, "_listen", lambda seconds: None)
    seen.service.run()
    assert len(seen.runs()) == 2
    assert [run["run"]["owes"] for run in seen.runs()] == [False, False]


def test_records_that_cannot_be_written_are_waited_for(watched, monkeypatch):
    seen = watched()
    leaked, full = seen.journal.leaked, [sqlite3.OperationalError("database or disk is full")] * 3

    def failing():
        if full:
            raise full.pop()
        return leaked()

    monkeypatch.setattr(seen.journal, "leaked", failing)
    monkeypatch.setattr(seen.service, "_listen", lambda seconds: None)
    said = []
    monkeypatch.setattr(seen.service._console, "print", lambda text, **_: said.append(text))
    seen.service.run()
    assert len(seen.runs()) == 1
    assert sum("cannot be read or written: OperationalError" in text for text in said) == 1
    assert "disk is full" in seen.status.now().last_error


def test_after_campaigns_in_which_nothing_was_judged_it_waits_longer_and_longer(watched, monkeypatch):
    seen = watched(campaigns=3)

    def unsteady(experimenter, fault):
        raise NotSteady("the steady state did not hold")

    monkeypatch.setattr("envs.experiment.Experimenter.gate", unsteady)
    pauses = []
    monkeypatch.setattr(seen.service, "_pause", pauses.append)
    seen.service.run()
    assert pauses == [30.0, 60.0]
    assert seen.status.now().last_error.endswith("no experiment was judged: the steady state did not hold")
    assert seen.said("rung") == [], "trust is lost by harm alone"


def test_a_disk_on_which_ever_less_is_free_is_said_once_and_old_runs_make_room(watched, monkeypatch):
    seen = watched(least_free_mib=512.0, retention={"runs": 1})
    for day in (1, 2):
        folder = seen.settings.runs_dir / f"run-{day}"
        folder.mkdir(parents=True)
        at = f"2026-11-0{day}T00:00:00+00:00"
        facts = {"by": retention.BY, "cluster": seen.settings.cluster.id, "started_at": at, "ended_at": at}
        (folder / "run.json").write_text(json.dumps(facts))
    free = iter(range(400, 0, -1))
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=next(free) * 2**20))
    tidied, tidy = [], seen.service._tidy
    monkeypatch.setattr(seen.service, "_tidy", lambda: tidied.append(tidy()))
    turns = []
    when(seen, lambda: turns.append(None) or len(turns) > 3, lambda: seen.service.end("enough"))
    seen.service.run()
    assert seen.said("waiting") == ["fewer than 512 MiB are free on the disk"]
    assert [folder.name for folder in seen.settings.runs_dir.iterdir()] == ["run-2"]
    assert len(tidied) == 1


def test_a_full_disk_that_the_journal_has_no_room_on_either_is_said_once(watched, monkeypatch):
    seen = watched(least_free_mib=1e9)
    note = seen.journal.note

    def full(event: str, reason: str) -> None:
        if event == "waiting":
            raise sqlite3.OperationalError("database or disk is full")
        note(event, reason)

    monkeypatch.setattr(seen.journal, "note", full)
    said = []
    monkeypatch.setattr(seen.service._console, "print", lambda text, **_: said.append(text))
    turns = []
    when(seen, lambda: turns.append(None) or len(turns) > 4, lambda: seen.service.end("enough"))
    seen.service.run()
    assert len(said) == 1


def test_a_damaged_journal_is_waited_for(watched):
    seen = watched()
    seen.journal._db.execute("INSERT INTO standing VALUES ('bb-1', 1, 'leaked', 'no receipt')")
    mend = "DELETE FROM standing"
    when(seen, lambda: bool(seen.said("waiting")), lambda: seen.journal._db.execute(mend))
    seen.service.run()
    assert "the journal holds what cannot be read" in seen.said("waiting")[0]
    assert len(seen.runs()) == 1


def test_bad_settings_end_it_before_anything_begins(tmp_path, watched):
    seen = watched()
    settings = seen.settings.model_copy(update={"campaign": seen.settings.campaign.model_copy(update={"policy": "x"})})
    seen.service._settings = settings
    with pytest.raises(BadInput, match="unknown policy 'x'"):
        seen.service.run()


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


# ---- what is remembered ---------------------------------------------------------------------------------------------


def outcome(verdict: Verdict = Verdict.WEAKNESS, *, recovered_s: float | None = 40.0, cost_min: float = 1.0) -> Outcome:
    broken = (
        (Broken("web/up >= 1", "web/up", Mechanism.UNAVAILABLE, 0.0, 1.0, 3),) if verdict is Verdict.WEAKNESS else ()
    )
    evidence = Evidence(verdict, anomaly_score=0.5, e_value=9.0, p=0.012, cost_min=cost_min)
    phases = Phases(10.0, 20.0, recovered_s, 70.0)
    fault = Fault("pod.kill", Target("web"), 0.5, 10.0)
    return Outcome(fault, Score(evidence, broken, "because", 3.0, ()), phases=phases)


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


def test_the_store_gives_back_what_it_was_given(tmp_path):
    store = Store(tmp_path / "service.db")
    store.spend("2026-11-27", 1.0, 0.25)
    store.spend("2026-11-27", 2.0)
    store.stand_on(Rung(1, 2))
    store.learn(outcome(), NOON)
    store.learn(outcome(Verdict.RESILIENT), NOON + timedelta(days=5))
    store.close()
    store = Store(tmp_path / "service.db")
    assert store.spent("2026-11-27") == Spent(3.0, 0.25)
    assert store.spent("2026-11-28") == Spent()
    assert store.rung() == Rung(1, 2)
    assert [each.evidence.verdict for each in store.experiences(NOON + timedelta(days=6), 7.0).experiences] == [
        Verdict.WEAKNESS,
        Verdict.RESILIENT,
    ]
    (late,) = store.experiences(NOON + timedelta(days=6), 3.0).experiences
    assert (late.fault, late.mechanism) == (outcome().fault, None)
    store.forget(NOON + timedelta(days=1), "2026-11-28")
    assert store.spent("2026-11-27") == Spent()
    assert len(store.experiences(NOON + timedelta(days=6), 30.0).experiences) == 1
    store.close()


DAMAGE = {
    "no JSON": "UPDATE experiences SET fault = '{' WHERE seq = 2",
    "another JSON": "UPDATE experiences SET evidence = '[]' WHERE seq = 2",
    "no numbers": "UPDATE experiences SET evidence = replace(evidence, '9.0', '\"9\"') WHERE seq = 2",
    "nothing known": "UPDATE experiences SET mechanism = 'magic' WHERE seq = 2",
    "out of range": "UPDATE experiences SET fault = replace(fault, '0.5', '5.0') WHERE seq = 2",
    "no text": "UPDATE experiences SET mechanism = CAST(x'ff' AS TEXT) WHERE seq = 2",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_what_cannot_be_read_of_the_memory_is_left_out_and_said_once(watched, damage):
    """It is only tried again; the service goes on, at every start."""
    seen = watched()
    for _ in range(3):
        seen.store.learn(outcome(), NOON)
    with seen.store._engine.begin() as connection:
        connection.exec_driver_sql(damage)
    memory = seen.store.experiences(NOON, 7.0)
    assert ([each.fault for each in memory.experiences], memory.unreadable) == ([outcome().fault] * 2, 1)
    for _ in range(2):
        assert len(seen.service._remembered(NOON)) == 2
    assert seen.said("service") == ["leaves out 1 experiment(s) of its memory: unreadable"]


@pytest.mark.parametrize("content", [b"no database" * 100, None])
def test_a_memory_that_cannot_be_read_is_unsafe_not_empty(tmp_path, content):
    path = tmp_path / "service.db"
    if content is None:
        store = Store(path)
        with store._engine.begin() as connection:
            connection.exec_driver_sql("PRAGMA user_version=9")
        store.close()
    else:
        path.write_bytes(content)
    with pytest.raises(Unsafe, match="the service's memory"):
        Store(path)


def test_old_runs_of_the_service_go_and_no_others(tmp_path, watched):
    seen = watched(retention={"runs": 1}, campaigns=3)
    mine = seen.settings.runs_dir / "mine"
    mine.mkdir(parents=True)
    (mine / "run.json").write_text(json.dumps({"state": "done", "ended_at": "2020-01-01T00:00:00+00:00"}))
    seen.service.run()
    assert len(seen.runs()) == 1
    assert mine.exists()


@pytest.mark.parametrize("damage", ["not JSON\n", "{}\n", "\0\0\0\0\n"])
def test_a_killed_campaign_with_a_damaged_record_is_closed_and_ends_no_service(tmp_path, watched, damage):
    """As a disk may leave it that lost its power."""
    seen = watched(campaigns=1)
    left = seen.settings.runs_dir / "left"
    left.mkdir(parents=True)
    facts = {"by": retention.BY, "cluster": seen.settings.cluster.id, "state": "running", "started_at": "2020"}
    (left / "run.json").write_text(json.dumps(facts | {"schema_version": SCHEMA_VERSION}))
    (left / "outcomes.jsonl").write_text(damage)
    earlier = seen.settings.runs_dir / "earlier"
    earlier.mkdir()
    (earlier / "run.json").write_text(json.dumps(facts | {"schema_version": 0}))
    old = seen.settings.runs_dir / "old"
    old.mkdir()
    (old / "run.json").write_text(json.dumps(facts | {"state": "done", "ended_at": "some time"}))
    seen.service.run()
    assert json.loads((left / "run.json").read_text())["state"] == "killed"
    assert (left / "outcomes.jsonl").read_text() == damage
    assert json.loads((earlier / "run.json").read_text())["state"] == "running"
    assert old.exists()


def test_a_clock_that_jumps_years_ahead_takes_no_new_run_away(watched):
    seen = watched(campaigns=2)
    seen.service.run()
    gone = retention.tidy(
        seen.settings.runs_dir, seen.settings.cluster.id, seen.settings.service.retention, NOON.replace(year=2040)
    )
    assert gone == ([], {})
    assert len(seen.runs()) == 2


def test_a_run_that_cannot_be_deleted_keeps_nothing_else_from_going(watched, monkeypatch):
    seen = watched(campaigns=4, retention={"runs": 1})
    rmtree, forgotten = shutil.rmtree, []

    def failing(folder: Path, *arguments: object, **options: object) -> None:
        if folder == first():
            raise PermissionError(1, "Operation not permitted", str(folder / "platform"))
        rmtree(folder, *arguments, **options)

    def first() -> Path:
        return next(folder for folder, _ in retention.own_runs(seen.settings.runs_dir))

    monkeypatch.setattr("shutil.rmtree", failing)
    monkeypatch.setattr(seen.store, "forget", lambda *_: forgotten.append(True))
    pauses = []
    monkeypatch.setattr(seen.service, "_pause", pauses.append)
    seen.service.run()
    assert len(seen.runs()) == 2
    assert pauses == [0.0] * 3
    assert len(forgotten) == 4
    (said,) = [text for text in seen.said("retention") if "cannot be deleted" in text]
    assert first().name in said


def test_an_error_after_a_campaign_does_not_take_its_pause(watched, monkeypatch):
    seen = watched(campaigns=2, pause_s=7.0)
    full = [sqlite3.OperationalError("database or disk is full")]

    def failing(*_: object, **__: object) -> int:
        if full:
            raise full.pop()
        return 0

    monkeypatch.setattr(seen.journal, "forget", failing)
    pauses = []
    monkeypatch.setattr(seen.service, "_pause", pauses.append)
    monkeypatch.setattr(seen.service, "_listen", lambda seconds: None)
    seen.service.run()
    assert pauses == [7.0]
    assert "database or disk is full" in seen.status.now().last_error


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


# ---- processes ------------------------------------------------------------------------------------------------------


@contextmanager
def process(folder: Path, **service: object) -> Iterator[subprocess.Popen[str]]:
    config = config_file(folder, scoring={"units": 24}, service=QUICK | {"http": {"port": 0}} | service)
    command = [sys.executable, "-m", "agent", "serve", "--config", str(config)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


def wait_for(running: subprocess.Popen[str], words: str) -> str:
    for line in running.stdout:
        if words in line:
            return line
    raise AssertionError(f"it ended before it said {words!r}: {running.stderr.read()}")


def test_a_killed_service_goes_on_and_has_lost_nothing(tmp_path):
    with process(tmp_path, campaign_min=600.0, daily={"minutes": 900.0, "harm_min": 900.0}) as first:
        wait_for(first, "CONFIRMED")
        os.kill(first.pid, signal.SIGKILL)
    settings = load(tmp_path / "settings.yaml")
    ledger = Ledger(settings.cluster_state_dir / "ledger.db")
    known = {weakness["id"] for weakness in ledger.all()}
    ledger.close()
    assert known, "confirmed before the kill: known after it"
    with process(tmp_path, campaign_min=600.0, daily={"minutes": 900.0, "harm_min": 900.0}) as second:
        wait_for(second, "chosen:")
        second.send_signal(signal.SIGTERM)
        assert second.wait(60) == 0
    killed, ended = [load_run(folder) for folder, _ in retention.own_runs(settings.runs_dir)]
    assert (killed["run"]["state"], killed["run"]["ended_by"]) == ("killed", retention.KILLED)
    assert {weakness["id"] for weakness in killed["weaknesses"]} == known
    assert (settings.runs_dir / killed["name"] / "report.html").exists()
    assert (ended["run"]["state"], ended["run"]["ended_by"]) == ("interrupted", "interrupted: SIGTERM")
    store = Store(settings.cluster_state_dir / "service.db")
    (day,) = {store.spent(datetime.now(UTC).date().isoformat())}
    store.close()
    assert day.minutes >= killed["run"]["spent_min"] - 0.01


def test_a_second_service_is_turned_away_and_a_dead_one_is_not_in_the_way(settings):
    lock = settings.cluster_state_dir / "service.lock"
    lock.parent.mkdir(parents=True)
    turned_away = pytest.raises(Unsafe, match=rf"a service \(pid {os.getpid()}\) runs on this cluster already")
    with alone(lock, Unsafe), turned_away:
        serve(settings, Console(quiet=True), web=False, campaigns=0)
    assert lock.read_text() == f"{os.getpid()}\n"
    serve(settings, Console(quiet=True), web=False, campaigns=0)


def test_sigterm_while_it_waits_ends_it_at_once(tmp_path):
    with process(tmp_path, schedule={"windows": [{"days": [], "begins": "00:00", "ends": "00:01"}]}) as bad:
        assert bad.wait(30) == 2
        assert "windows" in bad.stderr.read()
    frozen = {"freezes": [{"begins": "2020-01-01T00:00", "ends": "2100-01-01T00:00", "why": "always"}]}
    with process(tmp_path, schedule=frozen) as waiting:
        wait_for(waiting, "waiting: always until")
        waiting.send_signal(signal.SIGTERM)
        assert waiting.wait(10) == 0


# ---- hours of it ----------------------------------------------------------------------------------------------------


def test_a_soak_counts_measures_and_goes_on_where_it_was(tmp_path):
    command = [sys.executable, "-m", "agent.bench.soak", "--folder", str(tmp_path / "soak"), "--experiments"]
    for experiments in (20, 50):
        said = subprocess.run([*command, str(experiments)], capture_output=True, text=True, check=False)
        assert said.returncode == 0, said.stderr
    facts = json.loads((tmp_path / "soak" / "soak.json").read_text())
    assert 50 <= facts["experiments"] < 60
    assert sum(facts["verdicts"].values()) == facts["experiments"]
    assert facts["shams"] > 0
    assert (facts["leaked"], facts["open"], facts["orphans"]) == (0, 0, [])
    assert len({pid for pid, *_ in facts["samples"]}) == 2
    other = subprocess.run([*command, "9", "--cluster", "local"], capture_output=True, text=True, check=False)
    assert "is of a simulated cluster" in other.stderr
    assert other.returncode != 0


def test_growth_is_seen_and_what_stays_level_is_not_growth():
    level = [[1, n, 100.0 + (n % 3), 10, 4] for n in range(0, 1000, 10)]
    grows = [[1, n, 100.0 + n / 100.0 + (n % 3), 10, 4] for n in range(0, 1000, 10)]
    assert abs(growth(level, 2)) < 1.0
    assert growth(grows, 2) == pytest.approx(10.0, rel=0.1)
    assert growth(level[:5], 2) is None
    assert growth([], 2) is None
