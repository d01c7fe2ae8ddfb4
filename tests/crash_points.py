"""An agent and its watchdog on a simulated cluster whose world is a file: real processes that can be stopped anywhere.

Both are forked from a warm process. The agent stops before or after the very journal entry that a case names, says so,
and goes on when it is told to; what happens to it meanwhile is up to the case.
"""

from __future__ import annotations

import copy
import os
import resource
import select
import signal
import sqlite3
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from actuators.actuator import Actuator
from actuators.catalogue import kind_of
from actuators.clock import BootClock
from actuators.drivers.world import FileWorld
from actuators.fault import Fault, Injection, Target
from agent.build.simulated import simulated_actuators
from envs.clusters.simulated.hidden import Hidden, empty_world
from safety.journal import APPLIED, CLEAN, INTENDED, REVERTED, REVERTING, VERIFIED, Journal
from safety.lease import Lease
from safety.lever import Lever
from safety.limits import OPT_IN_LABEL, Limits
from safety.recovery import recover
from safety.supervisor import Supervisor
from safety.vitals import ComponentVitals, Identity, Vitals
from safety.watchdog import Watchdog
from tests.contracts.test_actuators import FLOWING, TARGET

ACT = "act"
TRANSITIONS = (INTENDED, APPLIED, VERIFIED, REVERTING, REVERTED, CLEAN)
POINTS = ((ACT, "before"), *((event, side) for event in TRANSITIONS for side in ("before", "after")))
"""Everywhere that a process can die as far as the journal can tell; and between its last check and its act."""

LASTS_S = 0.8
"""Of a fault that is to come to its end by itself; the receipt must be on the disk before it is over."""

LONG_S = 60.0
"""Of whatever is not to end by itself; and how long an agent may be silent, for many begin beside each other."""

PATIENCE_S = 0.2
ENDED_WITHIN_S = 20.0

LIMITS = Limits(
    environment="staging",
    cluster_id="c1",
    max_instances=8,
    max_share=1.0,
    whole_component=tuple(set(TARGET.values())),
    irreversible=tuple(TARGET),
)
VITALS = Vitals(
    identity=Identity("c1", "staging"),
    components={name: ComponentVitals(2, 2, {OPT_IN_LABEL: "true"}) for name in set(TARGET.values())},
    service_levels={},
    age_s=0.0,
    unsteady=(),
    firing_alerts=(),
)


class Stops:
    """Stops an agent at its points, in their order, each the first time that it comes by."""

    def __init__(self, points: Sequence[tuple[str, str]], stop: Callable[[], None]) -> None:
        self._points = list(points)
        self._stop = stop

    def by(self, *point: str) -> None:
        if self._points and point == self._points[0]:
            self._points.pop(0)
            self._stop()


class Stopping(Journal):
    """A journal at whose entries its writer can be stopped."""

    stops: Stops

    def _append(self, event: str, injection_id: str | None, receipt: str | None, reason: str) -> None:
        self.stops.by(event, "before")
        super()._append(event, injection_id, receipt, reason)
        self.stops.by(event, "after")


class Acting:
    """An actuator before whose act its caller can be stopped."""

    def __init__(self, actuator: Actuator, stops: Stops) -> None:
        self._actuator = actuator
        self._stops = stops

    def __getattr__(self, name: str) -> object:
        return getattr(self._actuator, name)

    def took(self, injection: Injection) -> bool:
        """Nothing flows in a world whose time stands still, and what is felt by what flows is never felt."""
        return kind_of(injection.fault.kind).family in FLOWING or self._actuator.took(injection)

    def inject(self, injection: Injection) -> None:
        self._stops.by(ACT, "before")
        self._actuator.inject(injection)


@dataclass
class Watched:
    """The watchdog, as a forked agent sees it: both are children of the test."""

    pid: int

    def alive(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True


@dataclass
class Case:
    """One agent and one watchdog on a world of their own, the agent on its way to one point.

    Attributes:
        folder: of the world and its state.
        kind: of the fault.
        points: (entry of the journal, side of it) at which the agent stops, one after the other.
        lasts_s: how long the fault is meant to stay, seconds.
        agent: its pid; 0 once it has ended and was waited for.
        watchdog: as `agent`.
        reached: whether the agent came by its point.
    """

    folder: Path
    kind: str
    points: Sequence[tuple[str, str]]
    lasts_s: float = LASTS_S
    agent: int = 0
    watchdog: int = 0
    reached: bool = False
    before: object = None
    told: int = -1
    tells: int = -1
    pipe: int = -1
    fds: list[int] = field(default_factory=list)

    def begin(self) -> None:
        self.folder.mkdir()
        FileWorld(self.folder / "world.json", empty_world(Hidden()))
        Lever(self.folder / "lever.json").release("a test", "test")
        Journal(self.folder / "journal.db", BootClock(), "a test").close()
        Lease(self.folder / "lease", LONG_S, BootClock()).close()
        self.before = self.observed()
        watched, self.pipe = os.pipe()
        self.watchdog = self._forked(lambda: self._watch(watched), closing=[self.pipe])
        os.close(watched)
        self.told, says = os.pipe()
        hears, self.tells = os.pipe()
        self.agent = self._forked(lambda: self._act(says, hears), closing=[self.told, self.tells])
        for fd in (says, hears, self.pipe):  # the agent alone holds its end of the watchdog's pipe
            os.close(fd)
        self.fds = [self.told, self.tells]

    # ---- what a test does to it -------------------------------------------------------------------------------------

    def arrived(self) -> bool:
        """Hears that the agent has stopped at its point, or has ended without coming by."""
        self.reached = os.read(self.told, 1) == b"!"
        return self.reached

    def go_on(self, how: bytes = b"g") -> None:
        os.write(self.tells, how)

    def kill(self, *who: str) -> None:
        for name in who:
            os.kill(getattr(self, name), signal.SIGKILL)
            self._reaped(name)

    def let_lease_expire(self) -> None:
        """Lets time pass for the lease alone; whether it has expired is still for the watchdog to tell.

        Of an agent that stands still: one that goes on renews it.
        """
        db = sqlite3.connect(self.folder / "lease", isolation_level=None)
        db.execute("UPDATE lease SET boottime_s = boottime_s - ?", (2.0 * LONG_S,))
        db.close()

    def taken_out(self) -> bool:
        return taken_out(self.folder / "journal.db")

    def wait(self) -> None:
        """Waits until both have ended."""
        for name in ("agent", "watchdog"):
            if getattr(self, name):
                self._reaped(name)

    def close(self) -> None:
        """Ends what is left, whatever has happened."""
        for name in ("agent", "watchdog"):
            if pid := getattr(self, name):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                with suppress(ChildProcessError):
                    os.waitpid(pid, 0)
        for fd in self.fds:
            os.close(fd)

    def _reaped(self, name: str) -> None:
        pid = getattr(self, name)
        pidfd = os.pidfd_open(pid)
        ended = select.select([pidfd], [], [], ENDED_WITHIN_S)[0]
        os.close(pidfd)
        assert ended, f"{self}: the {name} did not end\n{self.complaints()}"
        os.waitpid(pid, 0)
        setattr(self, name, 0)

    # ---- what is left of it -----------------------------------------------------------------------------------------

    def observed(self) -> object:
        """Returns the world but for the dead, who stay dead."""
        with FileWorld(self.folder / "world.json").change() as document:
            return {name: copy.deepcopy(part) for name, part in document.items() if name not in {"killed", "nodes"}}

    def recovered(self) -> tuple[list[Injection], list[Injection]]:
        """Has a fresh process's recovery look; returns what it could not take out, and what leaked."""
        journal = Journal(self.folder / "journal.db", BootClock(), "next start")
        left = recover(journal, self._actuators(), Lever(self.folder / "lever.json"), "next start", "a test")
        leaked = journal.leaked()
        journal.close()
        return left, leaked

    def record(self) -> list[str]:
        """Returns the entries about the injection, in order."""
        journal = Journal(self.folder / "journal.db", BootClock(), "reader")
        entries = [entry.event for entry in journal.entries() if entry.injection is not None]
        journal.close()
        return entries

    def lever_engaged(self) -> bool:
        return Lever(self.folder / "lever.json").read().engaged

    def complaints(self) -> str:
        path = self.folder / "complaints"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def __str__(self) -> str:
        return f"{self.kind} {self.point[1]} {self.point[0]}"

    @property
    def point(self) -> tuple[str, str]:
        return self.points[0]

    # ---- inside of the children -------------------------------------------------------------------------------------

    def _actuators(self) -> Mapping[str, object]:
        return simulated_actuators(FileWorld(self.folder / "world.json"), self.folder / "kept")[0]

    def _watch(self, pipe: int) -> None:
        clock = BootClock()
        watchdog = Watchdog(
            pipe=pipe,
            journal=Journal(self.folder / "journal.db", clock, "watchdog", PATIENCE_S),
            actuators=self._actuators(),
            lever=Lever(self.folder / "lever.json"),
            lease=Lease(self.folder / "lease", LONG_S, clock, PATIENCE_S),
            clock=clock,
            grace_s=LONG_S,  # an agent whose turn comes late on a busy machine still comes to its own end
            poll_s=0.02,
        )
        watchdog.run()

    def _act(self, says: int, hears: int) -> None:
        clock = BootClock()
        stops = Stops(self.points, lambda: _stopped(says, hears))
        journal = Stopping(self.folder / "journal.db", clock, "agent", PATIENCE_S)
        journal.stops = stops
        lease = Lease(self.folder / "lease", LONG_S, clock, PATIENCE_S)
        lease.acquire("agent")
        supervisor = Supervisor(
            limits=LIMITS,
            journal=journal,
            lever=Lever(self.folder / "lever.json"),
            lease=lease,
            guardian=Watched(self.watchdog),
            actuators={family: Acting(actuator, stops) for family, actuator in self._actuators().items()},
            repairs=None,
            declared_repairs={},
            clock=clock,
            new_id=lambda: "bb-1",
            by="agent",
        )
        signal.signal(signal.SIGTERM, lambda *_: supervisor.interrupt("SIGTERM"))
        try:
            fault = Fault(self.kind, Target(TARGET[self.kind]), 0.5, self.lasts_s)
            injection = supervisor.inject(fault, VITALS)
            if not isinstance(injection, Injection):
                raise AssertionError(f"refused: {injection}")
            while not self._over(supervisor, injection):
                select.select([], [], [], 0.02)
        finally:
            supervisor.revert_all("the agent ends")

    @staticmethod
    def _over(supervisor: Supervisor, injection: Injection) -> bool:
        supervisor.took(injection)
        return supervisor.watch(injection, VITALS) is not None

    def _forked(self, work: Callable[[], None], closing: list[int]) -> int:
        """Runs something in a child that ends with it, and does nothing of what its parent would do at its own end."""
        pid = os.fork()
        if pid:
            return pid
        try:
            for fd in closing:
                os.close(fd)
            work()
        except BaseException:  # whatever it is, it must not go on as a second test run
            with suppress(OSError):
                (self.folder / "complaints").open("a", encoding="utf-8").write(traceback.format_exc())
        finally:
            os._exit(0)


def taken_out(journal: Path) -> bool:
    """Tells whether somebody has written down that the newest fault is gone."""
    db = sqlite3.connect(journal)
    newest = "SELECT event FROM entries WHERE injection IS NOT NULL ORDER BY seq DESC LIMIT 1"
    row = db.execute(newest).fetchone()
    db.close()
    return row == (CLEAN,)


def _stopped(says: int, hears: int) -> None:
    """Says that a point has been reached, waits, and does as it is told."""
    os.write(says, b"!")
    how = os.read(hears, 1)
    if how == b"x":
        raise RuntimeError("a mistake of ours")
    if how == b"f":  # from now on no file can grow: EFBIG where a full disk says ENOSPC
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
