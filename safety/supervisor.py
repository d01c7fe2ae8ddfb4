"""The one door from a decision to a cluster.

    judge      guards in reading order                      -> Refusal, and nothing was touched
    prepare    name what is hit, and judge how much it is   what lives may have changed since it was measured
    record     the receipt, fsynced                         before any harm
    re-check   lease, deadline, lever, age of the data      the last thing before the act
    act        actuator, driver
    watch      lever, lease, watchdog, telemetry, limits, deadline: whichever comes first ends the fault
    revert     then observe that it is gone, or call it leaked and engage the lever

Nothing that hurts can be reached except through `inject` and `repair`. No learned part is consulted here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from actuators.actuator import Actuator, Repairs
from actuators.catalogue import kind_of
from actuators.clock import Clock, Instant
from actuators.errors import ActuatorError, InjectionFailed
from actuators.fault import Fault, Injection

from .guards import Refusal, judge, judge_reach
from .journal import APPLIED, VERIFIED, Journal
from .lease import Lease, LeaseLost
from .lever import Lever
from .limits import Limits
from .recovery import take_out
from .vitals import Vitals


class Guardian(Protocol):
    """Whoever reverts in our place when we die."""

    def alive(self) -> bool:
        """Tells whether it still watches."""
        ...


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a running fault was taken out.

    Attributes:
        cause: `expired`, `finished`, `lapsed`, `limit`, `telemetry`, `lever`, `lease`, `records`, `watchdog`,
            `interrupted` or `error`.
        reason: in words, with the values that decided.
        clean: whether the fault's absence was observed.
    """

    cause: str
    reason: str
    clean: bool


class Supervisor:
    """Permits, records, applies, watches and reverts faults on one cluster.

    Args:
        limits: what guards and service levels are compared with.
        journal: the write-ahead log.
        lever: the kill switch.
        lease: held by this agent.
        guardian: the watchdog in another process.
        actuators: by fault family.
        repairs: the platform's own means of healing.
        declared_repairs: per component, the repair its owners allow.
        clock: deadlines are read against it.
        new_id: names injections, uniquely.
        by: who acts, for the audit.
    """

    def __init__(
        self,
        *,
        limits: Limits,
        journal: Journal,
        lever: Lever,
        lease: Lease,
        guardian: Guardian,
        actuators: Mapping[str, Actuator],
        repairs: Repairs,
        declared_repairs: Mapping[str, str],
        clock: Clock,
        new_id: Callable[[], str],
        by: str,
    ) -> None:
        self._limits = limits
        self._journal = journal
        self._lever = lever
        self._lease = lease
        self._guardian = guardian
        self._actuators = actuators
        self._repairs = repairs
        self._declared_repairs = declared_repairs
        self._clock = clock
        self._new_id = new_id
        self._by = by
        self._open: dict[str, Injection] = {}
        self._unclean: dict[str, Fault] = {}
        self._verified: set[str] = set()
        self._broken_since: dict[str, Instant] = {}
        self._quarantined: set[str] = set()
        self._interruption: str | None = None

    # ---- before an experiment -------------------------------------------------------------------------------------

    def obstacle(self) -> str | None:
        """Returns why nothing at all may be started now, or None. Renews the lease as a side effect.

        This is what a campaign asks between experiments; the door asks it again.
        """
        stopped = self._stopped()
        if stopped is not None:
            return stopped
        if self._unclean:  # neither journal nor lever may have taken it: their disk may be full or broken
            first = next(iter(self._unclean))
            return f"{len(self._unclean)} fault(s) of this run leaked, first {self._unclean[first]} ({first})"
        if not self._guardian.alive():
            return "the watchdog is dead or hangs; nobody would revert after us"
        try:
            leaked = self._journal.leaked()
            if leaked:
                return f"{len(leaked)} fault(s) leaked, first {leaked[0].fault} ({leaked[0].id})"
            self._lease.renew()
        except LeaseLost as error:
            return str(error)
        except sqlite3.Error as error:
            return f"journal or lease cannot be read or written: {error}"
        return None

    def would_refuse(self, fault: Fault, vitals: Vitals) -> Refusal | None:
        """Returns what the guards would say of a fault now; the mask of a policy is made of this."""
        return judge(fault, self._known(vitals), self._limits)

    # ---- the door -------------------------------------------------------------------------------------------------

    def inject(self, fault: Fault, vitals: Vitals) -> Injection | Refusal:
        """Applies a fault if everything permits it.

        Returns:
            The receipt of the applied fault, or the refusal; refused faults have touched nothing.

        Raises:
            InjectionFailed: the fault did not take, or its record could not be closed; whatever it did was reverted.
            Unsafe: the lease was lost between the permission and the act.
        """
        asked_at = self._clock.now()
        obstacle = self.obstacle()
        refusal = Refusal("supervisor", obstacle) if obstacle else self.would_refuse(fault, vitals)
        if refusal is not None:
            self._journal.note("refused", f"{fault}: {refusal}")
            return refusal

        actuator = self._actuators[kind_of(fault.kind).family]
        injection_id = self._new_id()
        try:
            undo = actuator.prepare(injection_id, fault)
        except (ActuatorError, OSError) as error:  # nothing was touched yet
            self._journal.note("refused", f"{fault}: {error}")
            return Refusal("prepare", str(error))
        refusal = judge_reach(fault, undo, vitals, self._limits)
        if refusal is not None:
            self._journal.note("refused", f"{fault}: {refusal}")
            return refusal
        now = self._clock.now()
        injection = Injection(injection_id, fault, undo, now, now.after(fault.duration_s), self._lease.token)

        self._journal.intend(injection)
        self._open[injection.id] = injection
        try:
            self._lease.renew()
            if injection.expires_at.reached(self._clock.now()):
                raise InjectionFailed("its deadline has passed before the act; this process must have been frozen")
            # Preparing, writing down and renewing may take seconds. A halt that was said to work must work, and what
            # was measured before them may be no knowledge any more.
            stopped = self._stopped() or self._outdated(vitals, asked_at)
            if stopped is None:
                actuator.inject(injection)
        except LeaseLost:
            self.revert(injection, "lease", "the lease was lost before the act")
            raise
        except (ActuatorError, OSError) as error:
            self.revert(injection, "error", f"the injection failed: {error}")
            raise InjectionFailed(f"{fault}: {error}") from error
        except BaseException as error:
            self.revert(injection, "error", f"{type(error).__name__} during the injection")
            raise
        if stopped is not None:
            return self._taken_back(injection, stopped)
        self._journal.mark(injection, APPLIED)
        return injection

    # ---- while a fault is in force --------------------------------------------------------------------------------

    def watch(self, injection: Injection, vitals: Vitals) -> Stop | None:
        """Decides whether a fault may stay, given the newest measurement; reverts it if not.

        To be called once per poll: it is also the heartbeat that keeps the watchdog from acting.
        """
        cause, reason = self._reason_to_stop(injection, vitals)
        if cause:
            return self.revert(injection, cause, reason)
        return None

    def took(self, injection: Injection) -> bool:
        """Tells whether the fault's symptom has been observed, now or before; writes the first time down."""
        if injection.id in self._verified:
            return True
        try:
            seen = self._actuator(injection).took(injection)
        except (ActuatorError, OSError):
            return False
        if seen:
            self._verified.add(injection.id)
            self._journal.mark(injection, VERIFIED)
        return seen

    def is_spent(self, injection: Injection) -> bool:
        """Tells whether nothing of the fault is left although nobody has reverted it."""
        try:
            return self._actuator(injection).probe_clean(injection)
        except (ActuatorError, OSError):
            return False

    def revert(self, injection: Injection, cause: str, reason: str) -> Stop:
        """Takes a fault out, whatever the reason, and observes that it is gone."""
        clean = take_out(injection, self._actuators, self._journal, self._lever, self._by, f"{cause}: {reason}")
        self._open.pop(injection.id, None)
        if not clean:
            self._unclean[injection.id] = injection.fault
        self._broken_since.clear()
        return Stop(cause, reason, clean)

    def is_open(self, injection: Injection) -> bool:
        """Tells whether a fault that this supervisor has applied is still in force."""
        return injection.id in self._open

    def revert_all(self, reason: str) -> None:
        """Takes out everything that this supervisor has applied; the last line of every exit."""
        for injection in reversed(list(self._open.values())):
            self.revert(injection, "interrupted", reason)

    def interrupt(self, reason: str) -> None:
        """Asks for the end: what is in force is reverted at the next poll, and nothing new starts.

        Safe to call from a signal handler.
        """
        self._interruption = reason

    # ---- afterwards -----------------------------------------------------------------------------------------------

    def repair(self, component: str) -> bool:
        """Asks the platform for the repair that the component's owners declared, if they declared one.

        Returns:
            Whether a repair was accepted; whether it helped is for the caller to observe.

        Raises:
            RepairFailed: the platform refused.
        """
        action = self._declared_repairs.get(component)
        if action is None or self.obstacle() is not None:
            return False
        self._journal.note("repair", f"{component}: {action}")
        self._repairs.repair(component, action)
        return True

    def quarantine(self, component: str, reason: str) -> None:
        """Takes a component that did not recover out of the game."""
        self._journal.note("quarantined", f"{component}: {reason}")
        self._quarantined.add(component)

    @property
    def quarantined(self) -> frozenset[str]:
        """Components that are out of the game."""
        return frozenset(self._quarantined)

    # ---- inside ---------------------------------------------------------------------------------------------------

    def _stopped(self) -> str | None:
        """Returns who wants an end of everything, or None."""
        if self._interruption is not None:
            return f"interrupted: {self._interruption}"
        lever = self._lever.read()
        return f"the lever is engaged: {lever.reason}" if lever.engaged else None

    def _outdated(self, vitals: Vitals, known_at: Instant) -> str | None:
        """Returns how old a measurement has become if it is too old to act on by now, or None."""
        age_s = vitals.age_s + self._clock.now().boottime_s - known_at.boottime_s
        return f"newest measurement is {age_s:.1f} s old" if age_s > self._limits.stale_after_s else None

    def _taken_back(self, injection: Injection, why: str) -> Refusal:
        """Closes the record of a fault that was permitted and has not happened.

        Raises:
            InjectionFailed: nobody can tell that nothing of it is there.
        """
        if not self.revert(injection, "interrupted", f"before the act: {why}").clean:
            raise InjectionFailed(why)
        return Refusal("supervisor", why)

    def _actuator(self, injection: Injection) -> Actuator:
        return self._actuators[kind_of(injection.fault.kind).family]

    def _known(self, vitals: Vitals) -> Vitals:
        """Returns the vitals with what only the supervisor knows."""
        return replace(
            vitals,
            open_faults=tuple(injection.fault for injection in self._open.values()),
            quarantined=vitals.quarantined | self._quarantined,
        )

    def _reason_to_stop(self, injection: Injection, vitals: Vitals) -> tuple[str, str]:
        if self._interruption is not None:
            return "interrupted", self._interruption
        lever = self._lever.read()
        if lever.engaged:
            return "lever", lever.reason
        try:
            self._lease.renew()
        except LeaseLost as error:
            return "lease", str(error)
        except sqlite3.Error as error:
            return "records", f"the lease cannot be renewed: {error}"
        if not self._guardian.alive():
            return "watchdog", "the watchdog is dead or hangs; nobody would revert after us"
        if vitals.age_s > self._limits.stale_after_s:
            return "telemetry", f"newest measurement is {vitals.age_s:.1f} s old"
        if injection.expires_at.reached(self._clock.now()):
            return "expired", f"after {injection.fault.duration_s:g} s"
        return self._broken_limit(vitals)

    def _broken_limit(self, vitals: Vitals) -> tuple[str, str]:
        """Returns the service limit that has been broken, or unknown, for longer than it allows."""
        now = self._clock.now()
        for name, limit in self._limits.service_levels.items():
            value = vitals.service_levels.get(name)
            if value is not None and not limit.broken_by(value):
                self._broken_since.pop(name, None)
                continue
            since = self._broken_since.setdefault(name, now)
            lasted_s = now.boottime_s - since.boottime_s
            if value is None and lasted_s > self._limits.stale_after_s:
                return "telemetry", f"{name} has been unknown for {lasted_s:.1f} s"
            if value is not None and lasted_s >= limit.for_s:
                return "limit", f"{name} is {value:.3g}, allowed {limit}, for {lasted_s:.1f} s"
        return "", ""
