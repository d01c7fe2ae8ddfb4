from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from actuators.clock import BootClock, ManualClock
from actuators.errors import BadInput, Unsafe
from safety.lease import Lease, LeaseLost
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
