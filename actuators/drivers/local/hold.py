"""Holds processes frozen until a deadline, and lets them go whatever happens to whoever asked for it.

Run as a file of its own, so that it starts in milliseconds and needs nothing that could be missing:

    python -I -S hold.py INJECTION_ID BOOT_ID DEADLINE_BOOTTIME_S PID:START_TICKS ...

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
    boot_id, deadline_s = sys.argv[2], float(sys.argv[3])
    victims = [tuple(map(int, victim.split(":"))) for victim in sys.argv[4:]]
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE})
    if sys.stdin.readline() != "go\n" or _BOOT_ID.read_text().strip() != boot_id:
        return
    if os.fork():
        return
    try:
        for pid, start_ticks in victims:
            send(pid, start_ticks, signal.SIGSTOP)
        os.write(1, b"held\n")
        left_s = deadline_s - time.clock_gettime(time.CLOCK_BOOTTIME)
        signal.sigtimedwait({signal.SIGTERM}, max(0.0, left_s))
    finally:
        for pid, start_ticks in victims:
            send(pid, start_ticks, signal.SIGCONT)


if __name__ == "__main__":
    main()
