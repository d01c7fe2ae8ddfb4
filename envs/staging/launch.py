"""Starting and ending a platform from outside, for those whose runs need one."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from ..own_module import own_environment, own_module
from . import handle as handles
from . import leftovers
from .errors import BadInput, StagingError, StartFailed
from .guard import KILL_DEADLINE_S
from .handle import Handle
from .processes import ProcessId
from .settings import StagingSettings

_POLL_S = 0.2
_END_WITHIN_S = KILL_DEADLINE_S + 5.0


class Platform:
    """A platform that this process has started.

    Args:
        handle: where its handle will be.
        logs: where its logs go; they outlive it.
        settings: what it is made of.
        keepalive_fd: read end of a pipe; the platform ends when all write ends are closed.
    """

    def __init__(self, handle: Path, logs: Path, settings: StagingSettings, keepalive_fd: int) -> None:
        self._handle = handle
        self._deadline_s = settings.startup_deadline_s
        root = Path(tempfile.gettempdir()) / f"backburn-{secrets.token_hex(4)}"
        command = ["--handle", handle, "--root", root, "--logs", logs]
        self._guard = subprocess.Popen(
            own_module("envs.staging.guard", *command, "--keepalive-fd", keepalive_fd),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=[keepalive_fd],
            start_new_session=True,
            env=own_environment(),
            text=True,
        )
        if self._guard.stdin is not None:
            with self._guard.stdin as settings_pipe:
                settings_pipe.write(settings.to_json())

    def wait_until_ready(self, told: Callable[[Mapping[str, float]], None], interrupted: Callable[[], bool]) -> Handle:
        """Waits until every component serves.

        Args:
            told: is given the start-up times so far, whenever they change.
            interrupted: is asked whether to give up.

        Raises:
            BadInput: a setting, port or folder cannot be used.
            StartFailed: it did not start, not in time, or the wait was interrupted.
        """
        seen: Mapping[str, float] = {}
        deadline_s = time.monotonic() + self._deadline_s + _END_WITHIN_S
        while time.monotonic() < deadline_s and not interrupted():
            if self._guard.poll() is not None:
                raise self._failure()
            found = _read(self._handle)
            if found is not None and found.startup_s != seen:
                seen = found.startup_s
                told(seen)
            if found is not None and found.state == "ready":
                return found
            time.sleep(_POLL_S)
        raise StartFailed("the start was interrupted" if interrupted() else "the platform did not start in time")

    def stop(self) -> None:
        """Ends the platform and waits until nothing is left of it; a dead one is fine.

        Raises:
            StagingError: it does not end.
        """
        try:
            if self._guard.poll() is None:
                self._guard.send_signal(signal.SIGTERM)
                if not self._guard_ends():
                    self._guard.kill()
                    if not self._guard_ends():
                        raise _does_not_end(self._guard.pid)
                    leftovers.clear(self._handle)
            self._clear()
        finally:
            if self._guard.stderr is not None:
                self._guard.stderr.close()

    def _clear(self) -> None:
        """Ends what our guard has left: its handle stays where somebody killed it, or where it could not end something.

        Where it was turned away by another platform, the handle is that one's.
        """
        found = _read(self._handle)
        if found is not None and found.guard.pid == self._guard.pid:
            leftovers.clear(self._handle)

    def _guard_ends(self) -> bool:
        """Tells whether the guard ends in time."""
        try:
            self._guard.wait(_END_WITHIN_S)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _failure(self) -> StagingError:
        """Returns what the guard said before it ended."""
        text = self._guard.stderr.read() if self._guard.stderr is not None else ""
        reason = (text.strip().splitlines() or [f"its guard ended with status {self._guard.returncode}"])[-1]
        return BadInput(reason) if self._guard.returncode == BadInput.exit_code else StartFailed(reason)


def end(handle: Path, keepalive_fd: int | None = None) -> None:
    """Ends the platform behind a handle; none is fine.

    Args:
        handle: where its handle is.
        keepalive_fd: an end of a pipe; a platform that is alive and does not hang on it is somebody else's and is left
            alone. None: whoever started it.

    Raises:
        StagingError: it does not end.
    """
    found = _read(handle)
    if found is None:
        return
    if keepalive_fd is not None and found.guard.is_alive() and not found.guard.holds(keepalive_fd):
        return
    if found.guard.is_alive():
        os.kill(found.guard.pid, signal.SIGTERM)
    if not _ends(found.guard):
        found.guard.kill()
        if not _ends(found.guard):
            raise _does_not_end(found.guard.pid)
    leftovers.clear(handle)


def _does_not_end(guard_pid: int) -> StagingError:
    return StagingError(f"the platform's guard, process {guard_pid}, does not end although it was killed")


def _ends(process: ProcessId) -> bool:
    """Tells whether a process ends in time."""
    deadline_s = time.monotonic() + _END_WITHIN_S
    while process.is_alive() and time.monotonic() < deadline_s:
        time.sleep(_POLL_S / 10)
    return not process.is_alive()


def _read(handle: Path) -> Handle | None:
    """Returns what a handle says now, None while there is nothing to read."""
    try:
        return handles.read(handle)
    except (FileNotFoundError, StagingError):
        return None
