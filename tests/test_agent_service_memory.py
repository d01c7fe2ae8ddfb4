"""What a service remembers, and which of its runs it keeps."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from actuators.errors import Unsafe
from agent.findings.record import SCHEMA_VERSION
from agent.service import retention
from agent.service.store import Rung, Spent, Store
from envs.scoring import Verdict
from tests.services import NOON, outcome


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
