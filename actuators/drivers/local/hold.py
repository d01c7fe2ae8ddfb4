"""Freezes processes until a deadline, always or by turns, and lets them go whatever happens to whoever asked for it.

Run as a file of its own, so that it starts in milliseconds and needs nothing that could be missing:

    python -I -S hold.py INJECTION_ID BOOT_ID DEADLINE_BOOTTIME_S SHARE PID:START_TICKS ...

With a share below 1 it stops and continues them by turns, as the kernel does with a process that has used up its CPU
quota.

It waits for the line `go` before it freezes anything: whoever asked may have died in between, and a holder that never
heard from them must do no harm. It then goes on as an orphan, for it belongs to nobody, answers `held`, waits for the
deadline or SIGTERM, and lets go.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

PERIOD_S = 0.1
"""One turn, stopped and running together; as long as the kernel's own for CPU quotas (`cpu.max` of a cgroup)."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def is_same_process(pid: int, start_ticks: int) -> bool:
    """Tells whether a pid still belongs to the process that began at that time (clock ticks since boot)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    fields = stat.rpartition(")")[2].split()
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


def main() -> None:
    """Freezes, waits, lets go."""
    boot_id, deadline_s, share = sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
    victims = [tuple(map(int, victim.split(":"))) for victim in sys.argv[5:]]
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE})
    if sys.stdin.readline() != "go\n" or _BOOT_ID.read_text().strip() != boot_id:
        return
    if os.fork():
        return

    def tell(number: signal.Signals) -> None:
        for pid, start_ticks in victims:
            send(pid, start_ticks, number)

    try:
        tell(signal.SIGSTOP)
        os.write(1, b"held\n")
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
    return signal.sigtimedwait({signal.SIGTERM}, max(0.0, until_s - _now_s())) is not None


def _now_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


if __name__ == "__main__":
    main()
