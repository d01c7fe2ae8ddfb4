"""A component that is one plain process, restarted when it dies, as a kubelet would."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from .processes import ProcessId, identify


class PlainProcess:
    """One process that should always run.

    Args:
        name: of the component.
        command: what to run.
        settings: text for its stdin.
        log: file its output is appended to.
        restart_delay_s: time from its death to its restart, seconds.
    """

    def __init__(self, name: str, command: Sequence[str], settings: str, log: Path, restart_delay_s: float) -> None:
        self.name = name
        self.log = log
        self._command = command
        self._settings = settings
        self._restart_delay_s = restart_delay_s
        self._process: subprocess.Popen[bytes] | None = None
        self._restart_at_s: float | None = None

    @property
    def id(self) -> ProcessId | None:
        """The process that runs now, None while it is dead."""
        # Once it was waited for, its number may be anybody's.
        return identify(self._process.pid) if self._process is not None and self._process.poll() is None else None

    @property
    def exit_status(self) -> int | None:
        """How the newest process ended, negative for a signal; None while it runs."""
        return self._process.poll() if self._process is not None else None

    def start(self) -> None:
        """Starts the process."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT)
        assert self._process.stdin is not None  # noqa: S101 (we asked for a pipe)
        try:
            # Settings are far smaller than a pipe's buffer, so this never waits for the reader.
            with self._process.stdin as stdin:
                stdin.write(self._settings.encode())
        except BrokenPipeError:
            pass  # it died at once; `tend` sees that
        self._restart_at_s = None

    def tend(self, now_s: float) -> None:
        """Looks after the process: notices its death, and restarts it when its delay is over."""
        if self.exit_status is None:
            return
        if self._restart_at_s is None:
            self._restart_at_s = now_s + self._restart_delay_s
        if now_s >= self._restart_at_s:
            self.start()

    def restart(self) -> None:
        """Ends the process and starts it again at once."""
        self.end()
        self.start()

    def end(self) -> None:
        """Ends the process, and waits until it has ended."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
