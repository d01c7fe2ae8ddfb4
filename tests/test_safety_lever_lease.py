from __future__ import annotations

import fcntl
import multiprocessing
import os
import resource
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from actuators.clock import BootClock, ManualClock
from actuators.errors import BadInput, Unsafe
from safety.lease import _SCHEMA, Lease, LeaseLost
from safety.lever import Lever


def test_a_missing_lever_is_engaged(tmp_path):
    assert Lever(tmp_path / "lever.json").read().engaged


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"engaged": "no"}', '{"engaged": 0, "reason": ""}', '{"reason": "x"}', "\0"]
)
def test_an_unreadable_lever_is_engaged(tmp_path, text):
    path = tmp_path / "lever.json"
    path.write_text(text)
    assert Lever(path).read().engaged


def test_engaging_is_always_allowed_and_releasing_needs_a_reason(tmp_path):
    lever = Lever(tmp_path / "deep" / "lever.json")
    lever.engage("fire drill", "me")
    with pytest.raises(BadInput, match="needs a reason"):
        lever.release("  ", "me")
    assert lever.read().engaged
    lever.release("over", "me")
    state = lever.read()
    assert (state.engaged, state.reason, state.by) == (False, "over", "me")


def test_threads_that_pull_at_once_do_not_get_in_each_others_way(tmp_path):
    lever = Lever(tmp_path / "lever.json")
    with ThreadPoolExecutor(8) as pool:
        for pulled in [pool.submit(lever.engage, f"reason {number}", "test") for number in range(400)]:
            pulled.result()
    assert lever.read().engaged
    assert [path.name for path in tmp_path.iterdir()] == ["lever.json"]


def test_who_pulls_after_a_releaser_has_looked_keeps_it_pulled(lever, tmp_path):
    """Two processes: one has read that its own alert engaged the lever, a person pulls it, then the alert is over."""
    lever.engage("alerts are firing", "alertmanager")
    seen = lever.read()
    Lever(tmp_path / "lever.json").engage("a person wants quiet", "me")
    assert not lever.release("resolved", "alertmanager", only_if=seen)
    assert lever.read().reason == "a person wants quiet"
    assert lever.release("resolved", "alertmanager", only_if=lever.read())
    assert not lever.read().engaged


def test_of_a_pull_and_a_release_at_the_same_moment_the_pull_wins(lever, tmp_path, monkeypatch):
    write = lever._write

    def released_meanwhile(state):
        write(state)
        monkeypatch.setattr(lever, "_write", write)
        Lever(tmp_path / "lever.json").release("resolved", "alertmanager")

    monkeypatch.setattr(lever, "_write", released_meanwhile)
    lever.engage("fire drill", "me")
    assert lever.read().reason == "fire drill"


def test_who_hangs_while_releasing_keeps_no_lever_from_being_pulled(lever, tmp_path, monkeypatch):
    monkeypatch.setattr("safety.lever._PATIENCE_S", 0.02)
    folder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    lever.engage("fire drill", "me")
    assert lever.read().reason == "fire drill"
    with pytest.raises(BlockingIOError):
        lever.release("over", "me")
    assert lever.read().engaged
    os.close(folder)


def test_who_cannot_pull_a_second_time_is_told(lever, monkeypatch):
    write = lever._write

    def once(state):
        write(state)
        monkeypatch.setattr(lever, "_write", write)
        lever.release("resolved", "alertmanager")
        monkeypatch.setattr(lever, "_write", full)
        monkeypatch.setattr(lever, "_spoil", full)

    def full(state):
        raise OSError("Read-only file system")

    monkeypatch.setattr(lever, "_write", once)
    with pytest.raises(OSError, match="Read-only file system"):
        lever.engage("fire drill", "me")


def test_a_pulled_lever_is_seen_at_once_and_on_the_disk_when_engage_returns(lever, tmp_path, monkeypatch):
    durable = []

    def synced(handle):
        assert lever.read().reason == "fire drill", "nobody waits for the disk to see it"
        durable.append(os.fstat(handle).st_ino)

    monkeypatch.setattr(os, "fsync", synced)
    lever.engage("fire drill", "me")
    assert durable == [(tmp_path / "lever.json").stat().st_ino, tmp_path.stat().st_ino]


def test_a_disk_that_cannot_sync_keeps_no_lever_from_being_pulled(lever, monkeypatch):
    def fails(handle):
        raise OSError("Input/output error")

    monkeypatch.setattr(os, "fsync", fails)
    lever.engage("fire drill", "me")
    assert lever.read().reason == "fire drill"


@pytest.mark.parametrize("was", ["released", "missing"])
def test_on_a_full_disk_the_lever_can_be_pulled_and_not_released(tmp_path, was):
    lever = Lever(tmp_path / "lever.json")
    if was == "released":
        lever.release("a test", "test")
    said = _on_a_full_disk(tmp_path, "engage")
    assert said == "done"
    assert lever.exists(), "a start would make a missing one, released"
    assert lever.read().engaged
    assert "File too large" in _on_a_full_disk(tmp_path, "release")
    assert lever.read().engaged
    assert [path.name for path in tmp_path.iterdir()] == ["lever.json"]


def test_where_there_is_room_for_the_state_but_not_for_a_draft_the_reason_is_kept(lever, monkeypatch):
    def no_room(path, content):
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_bytes", no_room)
    lever.engage("fire drill", "me")
    assert lever.read().reason == "fire drill"


def test_a_lever_that_can_neither_be_replaced_nor_emptied_says_so(tmp_path):
    (tmp_path / "lever.json").mkdir()
    with pytest.raises(OSError, match="Is a directory"):
        Lever(tmp_path / "lever.json").engage("fire drill", "me")


def _on_a_full_disk(folder, verb) -> str:
    """Moves the lever in a process whose files cannot grow: EFBIG where a full disk says ENOSPC."""
    fork = multiprocessing.get_context("fork")
    got = fork.SimpleQueue()
    mover = fork.Process(target=_move_without_room, args=(folder, verb, got))
    mover.start()
    said = got.get()
    mover.join(30)
    return said


def _move_without_room(folder, verb, got) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    try:
        getattr(Lever(folder / "lever.json"), verb)("a reason", "test")
        said = "done"
    except OSError as error:
        said = str(error)
    got.put(said)


def test_the_lease_has_one_living_holder(tmp_path):
    clock = BootClock()
    first, second = Lease(tmp_path / "lease", 5.0, clock), Lease(tmp_path / "lease", 5.0, clock)
    first.acquire("agent 1")
    with pytest.raises(Unsafe, match=r"agent 1 .* one agent at a time"):
        second.acquire("agent 2")
    first.release()
    assert second.acquire("agent 2") == 2
    with pytest.raises(LeaseLost):
        first.renew()
    first.close()
    second.close()


def test_of_agents_that_start_at_once_one_gets_the_lease(tmp_path):
    Lease(tmp_path / "lease", 5.0, BootClock()).close()
    fork = multiprocessing.get_context("fork")
    together, got = fork.Barrier(6), fork.SimpleQueue()
    agents = [fork.Process(target=_start, args=(tmp_path / "lease", together, got)) for _ in range(6)]
    for agent in agents:
        agent.start()
    answers = [got.get() for _ in agents]
    for agent in agents:
        agent.join(30)
    assert sorted(answers) == ["acquired"] + ["turned away"] * 5


def _start(path, together, got):
    lease = Lease(path, 5.0, BootClock())
    together.wait(30)
    try:
        lease.acquire(f"agent {os.getpid()}")
        answer = "acquired"
    except Unsafe:
        answer = "turned away"
    got.put(answer)
    together.wait(30)  # nobody leaves before all have tried: a dead holder is in nobody's way
    lease.close()


def test_a_lease_not_renewed_can_be_taken_and_the_late_holder_finds_out(tmp_path, clock):
    first, second = Lease(tmp_path / "lease", 5.0, clock), Lease(tmp_path / "lease", 5.0, clock)
    first.acquire("agent 1")
    clock.advance(4.9)
    assert not second.expired()
    first.renew()
    clock.advance(5.1)
    assert second.expired()
    second.acquire("agent 2")
    with pytest.raises(LeaseLost, match="taken over"):
        first.renew()
    with pytest.raises(LeaseLost):
        _ = first.token
    first.close()
    second.close()


def test_a_fenced_holder_finds_out(tmp_path, clock, lease):
    other = Lease(tmp_path / "lease", 5.0, clock)
    other.fence("watchdog")
    with pytest.raises(LeaseLost):
        lease.renew()
    other.close()


def test_the_lease_of_a_dead_process_is_free_at_once(tmp_path):
    path = tmp_path / "lease"
    child = multiprocessing.get_context("fork").Process(target=_take_and_die, args=(path,))
    child.start()
    child.join()
    lease = Lease(path, 1000.0, BootClock())
    assert lease.acquire("next") == 2
    lease.close()


def test_the_lease_of_another_container_is_waited_for(tmp_path, clock, lease):
    """Containers of one host share a boot: there, its pid says nothing of a process that may well live."""
    other = Lease(tmp_path / "lease", 5.0, clock)
    db = sqlite3.connect(tmp_path / "lease", isolation_level=None)
    db.execute("UPDATE lease SET pid = 0, pid_namespace = pid_namespace + 1")
    db.close()
    with pytest.raises(Unsafe, match="one agent at a time"):
        other.acquire("agent 2")
    clock.advance(5.0)
    assert other.acquire("agent 2") == 2
    other.close()


def test_a_lease_that_an_earlier_backburn_has_left_is_waited_for_and_taken(tmp_path, clock):
    db = sqlite3.connect(tmp_path / "lease", isolation_level=None)
    db.execute(_SCHEMA)
    db.execute("INSERT INTO lease VALUES (1, 7, 'agent 1', 0, 0, 'simulated', 0.0)")
    db.close()
    first, second = Lease(tmp_path / "lease", 5.0, clock), Lease(tmp_path / "lease", 5.0, clock)
    with pytest.raises(Unsafe, match="one agent at a time"):
        first.acquire("agent 2")
    clock.advance(5.0)
    assert second.acquire("agent 2") == 8
    first.close()
    second.close()


def test_a_lease_whose_maker_died_in_the_middle_is_made_whole(tmp_path, clock):
    db = sqlite3.connect(tmp_path / "lease", isolation_level=None)
    db.execute(_SCHEMA)
    db.close()
    lease = Lease(tmp_path / "lease", 5.0, clock)
    assert lease.at_work() is None
    assert lease.acquire("agent 1") == 1
    assert lease.at_work() == f"agent 1 (pid {os.getpid()})"
    clock.advance(5.0)
    assert lease.at_work() is None
    lease.close()


def _take_and_die(path):
    Lease(path, 1000.0, BootClock()).acquire("short-lived")
    os._exit(9)


def test_after_a_reboot_every_lease_has_expired(tmp_path):
    before, after = ManualClock("boot-1", 1000.0), ManualClock("boot-2", 1.0)
    first = Lease(tmp_path / "lease", 5.0, before)
    first.acquire("agent 1")
    second = Lease(tmp_path / "lease", 5.0, after)
    assert second.expired()
    second.acquire("agent 2")
    first.close()
    second.close()
