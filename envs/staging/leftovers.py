"""What is left of a platform whose guard died: found, ended, and forgotten.

All processes of a platform are in one session. A session's number is a pid, and the kernel does not give that pid
away while the session has a member. So the number can be trusted, and with it all members, if one of them can be proved
to be ours: it has the platform's folder, whose name is unique, among its files or in its command line. Without such a
proof the number may belong to strangers by now, and nobody is touched. Environment variables prove nothing: process
titles overwrite them.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from . import handle
from .errors import PlatformAlive, StagingError
from .handle import Handle
from .processes import ProcessId, boot_id, identify

_DEADLINE_S = 10.0
_PAUSE_S = 0.02


def clear(handle_path: Path) -> list[int]:
    """Ends what is left of the platform that a handle describes, and removes its folder and the handle.

    Returns:
        The pids of the processes that were ended; empty also when there is no handle.

    Raises:
        PlatformAlive: the platform's guard is alive.
        StagingError: the file is no handle, or a process could not be ended.
    """
    try:
        found = handle.read(handle_path)
    except FileNotFoundError:
        return []
    ended: list[int] = []
    if found.boot_id == boot_id():
        if found.guard.is_alive():
            raise PlatformAlive(f"{handle_path}: platform of another run is alive, guard pid {found.guard.pid}")
        ended = _end_session(found)
    shutil.rmtree(found.root, ignore_errors=True)
    handle_path.unlink(missing_ok=True)
    return ended


def _end_session(found: Handle) -> list[int]:
    members = list(_members(found))
    if not any(_has_files_in(process, found.root) for process in members):
        return []
    ended: set[int] = set()
    deadline_s = time.monotonic() + _DEADLINE_S
    while members := list(_members(found)):
        for process in members:
            process.kill()
            ended.add(process.pid)
        if time.monotonic() > deadline_s:
            raise StagingError(f"these processes could not be ended: {sorted(each.pid for each in members)}")
        time.sleep(_PAUSE_S)
    return sorted(ended)


def _members(found: Handle) -> Iterator[ProcessId]:
    """Yields the living members of the platform's session that are not older than its guard."""
    for pid in psutil.pids():
        try:
            in_session = os.getsid(pid) == found.session_id
        except OSError:  # it ended while we looked
            continue
        process = identify(pid) if in_session else None
        if process is not None and process.start_ticks >= found.guard.start_ticks:
            yield process


def _has_files_in(process: ProcessId, root: str) -> bool:
    """Tells whether a process works in a folder, has a file in it open, or names it in its command line."""
    own = Path(f"/proc/{process.pid}")
    try:
        names = [os.readlink(own / "cwd"), *own.joinpath("cmdline").read_text(errors="replace").split("\0")]
        names += [os.readlink(link) for link in own.joinpath("fd").iterdir()]
    except OSError:
        names = []
    return process.is_alive() and any(f"{root}/" in f"{name}/" for name in names)
