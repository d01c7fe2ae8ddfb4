"""The watchdog, seen from the agent that it watches."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

from actuators.errors import Unsafe

_UP_WITHIN_S = 30.0


class WatchdogProcess:
    """The watchdog, as the agent sees it: a child that watches a pipe which closes with the agent.

    Args:
        config: the settings file that it reads.
        keepalive_fd: write end of the platform's keepalive pipe; the platform outlives the agent until the watchdog,
            too, has let go.

    Raises:
        Unsafe: it did not come up.
    """

    def __init__(self, config: Path, keepalive_fd: int) -> None:
        read_end, self._pipe = os.pipe()
        command = [sys.executable, "-m", "agent", "recover", "--watch", str(read_end), "--config", str(config)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            pass_fds=[read_end, keepalive_fd],
            start_new_session=True,
        )
        os.close(read_end)
        if self._process.stdout is None:
            raise Unsafe("the watchdog has no way to say that it watches")
        readable, _, _ = select.select([self._process.stdout], [], [], _UP_WITHIN_S)
        if not readable or self._process.stdout.readline() != b"watching\n":
            self.close()
            raise Unsafe("the watchdog did not come up; without it nothing may be broken")

    def alive(self) -> bool:
        """Tells whether it still watches."""
        return self._process.poll() is None

    def close(self) -> None:
        """Lets go of it and waits until it has cleaned up and gone."""
        os.close(self._pipe)
        try:
            self._process.wait(_UP_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
