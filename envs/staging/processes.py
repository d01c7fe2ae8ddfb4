"""Processes by identity.

A pid alone says little: it is given away again. A pid together with its start time names one process of one boot.
"""

from __future__ import annotations

import ctypes
import os
import signal
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_DEAD_STATES = frozenset("ZXx")


@dataclass(frozen=True, slots=True)
class ProcessId:
    """One process of this boot.

    Attributes:
        pid: its number.
        start_ticks: when it was started, in clock ticks since boot (field 22 of /proc/PID/stat).
    """

    pid: int
    start_ticks: int

    def is_alive(self) -> bool:
        """Tells whether it still exists; a stopped process does, a zombie does not."""
        return identify(self.pid) == self

    def holds(self, fd: int) -> bool:
        """Tells whether it holds an end of the pipe of which `fd` is an end; False also where nobody can tell."""
        pipe = os.fstat(fd)
        try:
            held = list(Path(f"/proc/{self.pid}/fd").iterdir())
        except OSError:
            return False
        return self.is_alive() and any(_is(link, pipe) for link in held)

    def kill(self) -> None:
        """Ends it at once; "already gone" is success."""
        if self.is_alive():
            try:
                os.kill(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                return


def identify(pid: int) -> ProcessId | None:
    """Returns the process that has this pid now, None when there is none or it is a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    # The name is in brackets and may hold anything, brackets and spaces included.
    state, *numbers = stat.rpartition(")")[2].split()
    return None if state in _DEAD_STATES else ProcessId(pid, int(numbers[18]))


def _is(link: Path, pipe: os.stat_result) -> bool:
    try:
        return os.path.samestat(link.stat(), pipe)
    except OSError:  # closed while we looked
        return False


def identify_self() -> ProcessId:
    """Returns the identity of the calling process."""
    own = identify(os.getpid())
    assert own is not None  # noqa: S101 (a running process is in /proc)
    return own


def boot_id() -> str:
    """Returns the name of this boot of this machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def die_with(parent_pid: int) -> None:
    """Has the kernel kill the calling process when its parent ends, however it ends."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it ended before we asked
        os._exit(1)


def adopt_orphans() -> None:
    """Makes the calling process the parent of every descendant whose own parent dies."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, argument: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, argument, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl option {option} was refused")
