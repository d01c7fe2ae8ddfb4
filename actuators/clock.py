"""Time that a deadline can be trusted to.

Wall clocks jump and `CLOCK_MONOTONIC` stands still while a machine sleeps; a fault does neither. Deadlines are
therefore readings of `CLOCK_BOOTTIME` together with the boot they belong to: after a reboot every deadline of the boot
before has passed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Instant:
    """A moment of one boot of one machine.

    Attributes:
        boot_id: which boot the reading belongs to.
        boottime_s: seconds since that boot, time asleep included.
    """

    boot_id: str
    boottime_s: float

    def after(self, seconds: float) -> Instant:
        """Returns the moment `seconds` later in the same boot."""
        return Instant(self.boot_id, self.boottime_s + seconds)

    def reached(self, now: Instant) -> bool:
        """Tells whether this moment lies in the past of `now`; every moment of another boot does."""
        return now.boot_id != self.boot_id or now.boottime_s >= self.boottime_s

    def seconds_until(self, now: Instant) -> float:
        """Returns the seconds that remain until this moment, 0 when it has been reached."""
        return 0.0 if self.reached(now) else self.boottime_s - now.boottime_s


class Clock(Protocol):
    """Where the present comes from; passed in, so that tests and simulated clusters own time."""

    def now(self) -> Instant:
        """Returns the present moment."""
        ...


class BootClock:
    """The machine's own clock."""

    def __init__(self) -> None:
        self._boot_id = _BOOT_ID.read_text().strip()

    def now(self) -> Instant:
        """Returns the present moment of this boot."""
        return Instant(self._boot_id, time.clock_gettime(time.CLOCK_BOOTTIME))


class ManualClock:
    """A clock that moves only when told to, for simulated clusters and tests."""

    def __init__(self, boot_id: str = "simulated", boottime_s: float = 0.0) -> None:
        self.boot_id = boot_id
        self.boottime_s = boottime_s

    def now(self) -> Instant:
        """Returns the moment the clock was last moved to."""
        return Instant(self.boot_id, self.boottime_s)

    def advance(self, seconds: float) -> None:
        """Moves time on by `seconds`."""
        self.boottime_s += seconds
