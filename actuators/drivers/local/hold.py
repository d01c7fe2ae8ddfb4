"""Holds processes back until a deadline, and lets them go whatever happens to whoever asked for it.

Run as a file of its own, so that it starts in milliseconds and needs nothing that could be missing:

    python -I -S hold.py INJECTION_ID BOOT_ID DEADLINE_BOOTTIME_S SHARE PID:START_TICKS ...
    python -I -S hold.py INJECTION_ID BOOT_ID DEADLINE_BOOTTIME_S memory PID:START_TICKS:LIMIT_BYTES:BEFORE_BYTES ...

It freezes them; with a share below 1 it stops and continues them by turns, as the kernel does with a process that has
used up its CPU quota. Or it lowers the limit on their memory, and restores the one of before.

It waits for the line `go` before it does anything: whoever asked may have died in between, and a holder that never
heard from them must do no harm. It then goes on as an orphan, for it belongs to nobody, answers `held`, waits for the
deadline or SIGTERM, and lets go. Where there is nobody to hold any more, it answers `not held` and ends.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from pathlib import Path

PERIOD_S = 0.1
"""One turn, stopped and running together; as long as the kernel's own for CPU quotas (`cpu.max` of a cgroup)."""

MEMORY = "memory"
"""How to hold a process short of memory; any other way is a share of the time."""

HELD, NOT_HELD = b"held\n", b"not held\n"
"""What it answers."""

UNLIMITED = resource.RLIM_INFINITY

_LOOK_AGAIN_S = 1.0
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def stat_of(pid: int) -> list[str]:
    """Returns the fields of a process's stat from its state on.

    Raises:
        OSError: there is no such process.
    """
    # The name in it may be anything, cut in the middle of a letter included.
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()


def is_same_process(pid: int, start_ticks: int) -> bool:
    """Tells whether a pid still belongs to the process that began at that time (clock ticks since boot)."""
    try:
        fields = stat_of(pid)
    except OSError:
        return False
    return fields[0] not in "ZX" and int(fields[19]) == start_ticks


def send(pid: int, start_ticks: int, number: signal.Signals) -> None:
    """Sends a signal to a process and to no later one that got its pid; one that is gone is no error."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if is_same_process(pid, start_ticks):
            signal.pidfd_send_signal(process, number)
    except ProcessLookupError:
        return
    finally:
        os.close(process)


def data_limit(pid: int, start_ticks: int) -> int | None:
    """Returns the soft limit on a process's data, bytes; None for a process that is gone."""
    if not is_same_process(pid, start_ticks):
        return None
    try:
        return resource.prlimit(pid, resource.RLIMIT_DATA)[0]
    except ProcessLookupError:
        return None


def replace_data_limit(pid: int, start_ticks: int, old_bytes: int, new_bytes: int) -> None:
    """Sets the soft limit on a process's data if it is still the old one; a process that is gone is no error."""
    if data_limit(pid, start_ticks) != old_bytes:
        return
    try:
        _, hard_bytes = resource.prlimit(pid, resource.RLIMIT_DATA)
        resource.prlimit(pid, resource.RLIMIT_DATA, (new_bytes, hard_bytes))
    except ProcessLookupError:
        return


def main() -> None:
    """Holds, waits, lets go."""
    boot_id, deadline_s, how = sys.argv[2], float(sys.argv[3]), sys.argv[4]
    victims = [list(map(int, victim.split(":"))) for victim in sys.argv[5:]]
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE})
    if sys.stdin.readline() != "go\n" or _BOOT_ID.read_text().strip() != boot_id:
        return
    if os.fork():
        return
    if how == MEMORY:
        _hold_memory(victims, deadline_s)
    else:
        _hold_time(victims, float(how), deadline_s)


def _hold_memory(victims: list[list[int]], deadline_s: float) -> None:
    """Lowers limits, waits, restores them."""
    try:
        for pid, start_ticks, limit_bytes, before_bytes in victims:
            replace_data_limit(pid, start_ticks, before_bytes, limit_bytes)
        if any(data_limit(pid, start_ticks) != limit_bytes for pid, start_ticks, limit_bytes, _ in victims):
            os.write(1, NOT_HELD)
            return
        os.write(1, HELD)
        _is_told_to_end(deadline_s)
    finally:
        for pid, start_ticks, limit_bytes, before_bytes in victims:
            replace_data_limit(pid, start_ticks, limit_bytes, before_bytes)


def _hold_time(victims: list[list[int]], share: float, deadline_s: float) -> None:
    """Freezes, always or by turns, and lets run."""

    def tell(number: signal.Signals) -> None:
        for pid, start_ticks in victims:
            send(pid, start_ticks, number)

    try:
        tell(signal.SIGSTOP)
        if not all(is_same_process(pid, start_ticks) for pid, start_ticks in victims):
            os.write(1, NOT_HELD)
            return
        os.write(1, HELD)
        while share < 1.0:
            # A turn begins now, however late: what was missed is not made up for.
            began_s = _now_s()
            if _is_told_to_end(min(deadline_s, began_s + share * PERIOD_S)) or _now_s() >= deadline_s:
                return
            tell(signal.SIGCONT)
            if _is_told_to_end(min(deadline_s, began_s + PERIOD_S)) or _now_s() >= deadline_s:
                return
            tell(signal.SIGSTOP)
        _is_told_to_end(deadline_s)
    finally:
        tell(signal.SIGCONT)


def _is_told_to_end(until_s: float) -> bool:
    """Waits until then, or for SIGTERM; tells whether that came."""
    while True:
        left_s = max(0.0, until_s - _now_s())
        # Its clock stands still while the machine sleeps, and ours does not.
        if signal.sigtimedwait({signal.SIGTERM}, min(left_s, _LOOK_AGAIN_S)) is not None:
            return True
        if left_s <= _LOOK_AGAIN_S:
            return False


def _now_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


if __name__ == "__main__":
    main()
