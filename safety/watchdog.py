"""The second line: a process of its own that reverts when the agent cannot.

It learns of a death at once (the agent's end of a pipe closes) and of a hang by the lease. It keeps every record until
its deadline plus a grace, and looks again then: an agent that was frozen between its last check and its act may wake up
late and apply what was reverted before. Where the act was over before the undo began, nothing can come late, and nobody
looks: the next fault of the same kind may be in force by then, and the platform may have moved on.

An agent may also have been frozen while it held a lock on journal or lease. Faults are taken out all the same; what
could not be written down is written at a later look.
"""

from __future__ import annotations

import os
import select
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import suppress

from actuators.actuator import Actuator
from actuators.clock import Clock
from actuators.fault import Injection

from .journal import Journal
from .lease import Lease
from .lever import Lever
from .recovery import recover, take_out

_BY = "watchdog"


class Watchdog:
    """Watches one agent on one cluster.

    Args:
        pipe: file descriptor of a pipe whose other end only the agent holds; it closes when the agent dies.
        journal: of the cluster.
        actuators: by fault family.
        lever: of the cluster.
        lease: the agent's, to see it expire and to fence the agent off.
        clock: deadlines are read against it.
        grace_s: how long after its deadline a fault is looked for once more.
        poll_s: how often to look.
        beat: is called over and over while it watches; who does not hear of it knows that the watchdog hangs.
    """

    def __init__(
        self,
        *,
        pipe: int,
        journal: Journal,
        actuators: Mapping[str, Actuator],
        lever: Lever,
        lease: Lease,
        clock: Clock,
        grace_s: float,
        poll_s: float = 0.25,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self._pipe = pipe
        self._journal = journal
        self._actuators = actuators
        self._lever = lever
        self._lease = lease
        self._clock = clock
        self._grace_s = grace_s
        self._poll_s = poll_s
        self._beat = beat
        self._seen: dict[str, Injection] = {}
        self._must_fence = False

    def run(self) -> None:
        """Watches until the agent is gone, and returns when nothing of it is in force."""
        while not self._agent_is_gone():
            self.look()
        recover(self._journal, self._actuators, self._lever, _BY, "the agent is dead")
        for injection in self._seen.values():
            # Reverted before, and then the agent may have woken up, acted, and died before it could say so.
            if not self._is_settled(injection) and not self._is_clean(injection):
                take_out(injection, self._actuators, self._journal, self._lever, _BY, "found after the agent's death")

    def look(self) -> None:
        """Looks once at what is open, and reverts what may not stay."""
        self._beat()
        still_open = self._journal.open_injections()
        self._seen.update((injection.id, injection) for injection in still_open)
        if still_open and self._lease.expired():
            self._must_fence = True
            recover(self._journal, self._actuators, self._lever, _BY, "the agent hangs: its lease has expired")
        for injection in list(self._seen.values()):
            if injection.expires_at.after(self._grace_s).reached(self._clock.now()):
                del self._seen[injection.id]
                self._beat()
                if injection in still_open or not (self._is_settled(injection) or self._is_clean(injection)):
                    reason = "its deadline and grace have passed"
                    take_out(injection, self._actuators, self._journal, self._lever, _BY, reason)
        if self._must_fence:
            self._fence()

    def _fence(self) -> None:
        """Tells a hung agent that it has no say any more, as soon as the lease can be written."""
        with suppress(sqlite3.OperationalError):
            self._lease.fence(_BY)
            self._must_fence = False

    def _agent_is_gone(self) -> bool:
        readable, _, _ = select.select([self._pipe], [], [], self._poll_s)
        return bool(readable) and os.read(self._pipe, 1) == b""

    def _is_settled(self, injection: Injection) -> bool:
        try:
            return self._journal.is_settled(injection)
        except sqlite3.Error:  # nobody can tell: look
            return False

    def _is_clean(self, injection: Injection) -> bool:
        actuator = self._actuators[injection.fault.kind.partition(".")[0]]
        try:
            return actuator.probe_clean(injection)
        except Exception:  # nobody can tell: revert once more
            return False
