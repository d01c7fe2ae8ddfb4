"""Journal, lever, lease, supervisor and watchdog together, in whatever order things happen and fail.

A state machine plays agent, watchdog, people and misfortune at once; after every step the sentences hold that the
README guarantees. What is in force is what the (fake) platform says, not what anybody remembers.
"""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from actuators.clock import ManualClock
from actuators.errors import BackburnError, InjectionFailed, RevertFailed, Unsafe
from actuators.fault import Fault, Injection, Target, Undo
from actuators.pod import Instance, chosen
from safety.journal import Journal
from safety.lease import Lease
from safety.lever import Lever
from safety.recovery import recover
from safety.supervisor import Supervisor
from safety.watchdog import Watchdog
from tests.simulation import FakeGuardian
from tests.test_safety_supervisor import LIMITS, VITALS

LEASE_S, GRACE_S = 5.0, 3.0
DURATIONS = (4.0, 10.0)
POLL_S = 0.5


class Platform:
    """What is in force, and a driver that fails when told to."""

    def __init__(self) -> None:
        self.in_force: dict[str, Injection] = {}
        self.fails: set[str] = set()
        self.dies_in: set[str] = set()

    def _may_fail(self, verb: str, error: type[BackburnError]) -> None:
        if verb in self.dies_in:
            self.dies_in.discard(verb)
            raise KeyboardInterrupt
        if verb in self.fails:
            raise error(f"{verb} does not work now")

    def prepare(self, injection_id: str, fault: Fault) -> Undo:
        return chosen([Instance("web-0", {}), Instance("web-1", {})], 1)

    def inject(self, injection: Injection) -> None:
        self.in_force[injection.id] = injection
        self._may_fail("inject", InjectionFailed)  # after the harm: the worse of both orders

    def revert(self, injection: Injection) -> None:
        self._may_fail("revert", RevertFailed)
        self.in_force.pop(injection.id, None)

    def took(self, injection: Injection) -> bool:
        return injection.id in self.in_force

    def probe_clean(self, injection: Injection) -> bool:
        self._may_fail("probe", RevertFailed)
        return injection.id not in self.in_force


class Machine(RuleBasedStateMachine):
    """The world of one cluster."""

    def __init__(self) -> None:
        super().__init__()
        memory = Path("/dev/shm")  # each entry of the journal would wait for the disk
        self.folder = tempfile.TemporaryDirectory(prefix="backburn-test-", dir=memory if memory.is_dir() else None)
        at = Path(self.folder.name)
        self.clock, self.ids = ManualClock(), count()
        self.platform, self.guardian = Platform(), FakeGuardian()
        self.lever, self.lever_file = Lever(at / "lever.json"), at / "lever.json"
        self.lever.release("a test", "test")
        self.watchdog_journal = Journal(at / "journal.db", self.clock, "watchdog", 0.0)
        self.watchdog_lease = Lease(at / "lease", LEASE_S, self.clock, 0.0)
        self.lock: sqlite3.Connection | None = None
        self.agent_journal: Journal | None = None
        self.agent_lease: Lease | None = None
        self.last_watch_s: float | None = None
        self.begin_agent()

    # ---- the agent --------------------------------------------------------------------------------------------------

    def begin_agent(self) -> None:
        at = Path(self.folder.name)
        if self.agent_journal is not None:
            self.agent_journal.close()
        if self.agent_lease is not None:
            self.agent_lease.close()
        self.agent_journal = self.agent_lease = None
        self.supervisor: Supervisor | None = None
        self.watchdog = Watchdog(
            pipe=-1,
            journal=self.watchdog_journal,
            actuators={"pod": self.platform},
            lever=self.lever,
            lease=self.watchdog_lease,
            clock=self.clock,
            grace_s=GRACE_S,
        )
        with suppress(Unsafe, sqlite3.OperationalError):  # a locked journal or lease: no agent begins
            self.agent_journal = Journal(at / "journal.db", self.clock, "agent", 0.0)
            self.agent_lease = Lease(at / "lease", LEASE_S, self.clock, 0.0)
            self.agent_lease.acquire("agent")
            if recover(self.agent_journal, {"pod": self.platform}, self.lever, "agent", "left"):
                return  # something leaks: no agent begins
            self.supervisor = Supervisor(
                limits=replace(LIMITS, max_duration_s=60.0),
                journal=self.agent_journal,
                lever=self.lever,
                lease=self.agent_lease,
                guardian=self.guardian,
                actuators={"pod": self.platform},
                repairs=None,
                declared_repairs={},
                clock=self.clock,
                new_id=lambda: f"bb-{next(self.ids)}",
                by="agent",
            )

    @precondition(lambda self: self.supervisor is not None)
    @rule(duration_s=st.sampled_from(DURATIONS), age_s=st.sampled_from([0.1, 9.0]))
    def inject(self, duration_s: float, age_s: float) -> None:
        before = dict(self.platform.in_force)
        fault = Fault("pod.pause", Target("web"), 0.5, duration_s)
        try:
            said = self.supervisor.inject(fault, replace(VITALS, age_s=age_s))
        except (InjectionFailed, Unsafe, sqlite3.OperationalError):
            return
        except KeyboardInterrupt:
            return
        if not isinstance(said, Injection):
            assert self.platform.in_force == before, "a refusal touches nothing"
            return
        assert age_s < 1.0, "nothing is done on old data"
        assert len(self.platform.in_force) == 1, "one at a time"

    @precondition(lambda self: self.supervisor is not None)
    @rule(age_s=st.sampled_from([0.1, 9.0]))
    def poll(self, age_s: float) -> None:
        """What a campaign does twice a second."""
        lever = self.lever.read().engaged
        for injection in list(self.supervisor._open.values()):
            stop = None
            with suppress(KeyboardInterrupt, sqlite3.OperationalError):
                stop = self.supervisor.watch(injection, replace(VITALS, age_s=age_s))
            expired = injection.expires_at.reached(self.clock.now())
            if stop is not None and stop.clean:
                assert injection.id not in self.platform.in_force
            if (lever or expired or age_s > 3.0 or not self.guardian.lives) and not self.is_failing():
                assert injection.id not in self.platform.in_force, "whatever forbids it ends it at the next poll"

    @rule()
    def die_and_begin_anew(self) -> None:
        """SIGKILL: nothing of the agent's memory is left. The watchdog sees the pipe close, then an agent starts."""
        self.watchdog_sees_a_death()
        self.begin_agent()

    def watchdog_sees_a_death(self) -> None:
        with suppress(sqlite3.OperationalError):
            left = recover(self.watchdog_journal, {"pod": self.platform}, self.lever, "watchdog", "the agent is dead")
            assert left or not self.platform.in_force

    # ---- the watchdog and time --------------------------------------------------------------------------------------

    @rule()
    def watchdog_looks(self) -> None:
        with suppress(sqlite3.OperationalError):
            self.watchdog.look()

    @rule(seconds=st.sampled_from([0.5, 2.0, 6.0, 20.0]), looks=st.booleans())
    def time_passes(self, seconds: float, looks: bool) -> None:
        """With the watchdog looking all the while, or with a machine asleep."""
        if not looks:
            self.clock.advance(seconds)
            return
        for _ in range(int(seconds / POLL_S)):
            self.clock.advance(POLL_S)
            self.watchdog_looks()
        if self.is_failing():
            return
        for injection in self.platform.in_force.values():
            assert not injection.expires_at.after(GRACE_S).reached(self.clock.now()), "deadline plus grace"

    # ---- people -----------------------------------------------------------------------------------------------------

    @rule()
    def pull_the_lever(self) -> None:
        self.lever.engage("a person", "test")

    @rule()
    def release_the_lever(self) -> None:
        self.lever.release("a person", "test")

    @rule(content=st.sampled_from([b"", b"{", b'{"engaged": "no", "reason": ""}', b"\xff", b"[]", b"null"]))
    def spoil_the_lever(self, content: bytes) -> None:
        self.lever_file.write_bytes(content)
        assert self.lever.read().engaged, "unreadable means engaged"

    @rule()
    def another_agent_takes_the_lease(self) -> None:
        with suppress(sqlite3.OperationalError):
            self.watchdog_lease.fence("another agent")

    # ---- misfortune -------------------------------------------------------------------------------------------------

    @rule(verb=st.sampled_from(["inject", "revert", "probe"]))
    def driver_breaks(self, verb: str) -> None:
        self.platform.fails.add(verb)

    @rule()
    def driver_works_again(self) -> None:
        self.platform.fails.clear()

    @rule(verb=st.sampled_from(["inject"]))
    def interrupt_comes(self, verb: str) -> None:
        self.platform.dies_in.add(verb)

    @rule(lives=st.booleans())
    def watchdog_process(self, lives: bool) -> None:
        self.guardian.lives = lives

    @precondition(lambda self: self.lock is None)
    @rule()
    def journal_is_locked(self) -> None:
        self.lock = sqlite3.connect(Path(self.folder.name) / "journal.db", isolation_level=None)
        self.lock.execute("BEGIN IMMEDIATE")

    @precondition(lambda self: self.lock is not None)
    @rule()
    def journal_is_free_again(self) -> None:
        self.unlock()

    def unlock(self) -> None:
        if self.lock is not None:
            self.lock.execute("ROLLBACK")
            self.lock.close()
            self.lock = None

    def is_failing(self) -> bool:
        return bool(self.platform.fails & {"revert", "probe"})

    # ---- what always holds ------------------------------------------------------------------------------------------

    @invariant()
    def whatever_is_in_force_stands_in_the_journal(self) -> None:
        known = {i.id for i in (*self.watchdog_journal.open_injections(), *self.watchdog_journal.leaked())}
        assert set(self.platform.in_force) <= known

    @invariant()
    def never_two_at_once(self) -> None:
        leaked = {i.id for i in self.watchdog_journal.leaked()}
        assert len(set(self.platform.in_force) - leaked) <= 1

    def teardown(self) -> None:
        """In the end everything works again, and one recovery leaves nothing."""
        self.unlock()
        self.platform.fails.clear()
        self.platform.dies_in.clear()
        left = recover(self.watchdog_journal, {"pod": self.platform}, self.lever, "test", "the end")
        try:
            assert left == []
            assert self.platform.in_force == {}
            assert self.watchdog_journal.open_injections() == self.watchdog_journal.leaked() == []
        finally:
            for each in (self.agent_journal, self.agent_lease, self.watchdog_journal, self.watchdog_lease):
                if each is not None:
                    each.close()
            self.folder.cleanup()


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=40)
