"""Continuous running on simulated clusters: what begins, what waits and why, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from actuators.errors import BadInput, Unsafe
from actuators.fault import Fault, Injection, Target
from agent.alone import alone
from agent.bench.soak import growth
from agent.findings.ledger import Ledger
from agent.findings.report import load_run
from agent.service import retention
from agent.service.serve import serve
from agent.service.store import Store
from agent.settings import load
from envs.experiment import NotSteady
from envs.outcome import Outcome
from safety.journal import LEAKED
from tests.conftest import config_file
from tests.services import NOON, QUICK, when


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
