"""The watchdog, seen from the agent that it watches; and how the one hears that the other watches.

The watchdog writes to its output whenever it goes round. Of one that is stopped or blocked nothing is heard, although
its process exists.
"""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from actuators.errors import Unsafe
from envs.own_module import own_environment, own_module

WATCHING = b"watching\n"
BEAT = b"."

_UP_WITHIN_S = 30.0
_SILENT_S = 10.0
"""How long a watchdog that works may be silent: it goes round four times a second, but an undo takes seconds."""
_AT_ONCE_S = 1.0
"""Within which it is heard of when whoever asks has not listened for long, or the machine stood still for both."""
_LOOK_EVERY_S = 0.2
_MOST_BYTES = 65536


def teller(fd: int) -> Callable[[bytes], None]:
    """Returns what tells something to whoever reads a pipe, and never waits for them."""
    os.set_blocking(fd, False)

    def tell(what: bytes) -> None:
        with suppress(OSError):  # nobody has read for hours, or the agent is dead: no reason not to watch
            os.write(fd, what)

    return tell


class WatchdogProcess:
    """The watchdog, as the agent sees it: a child that watches a pipe which closes with the agent.

    Args:
        config: the settings file that it reads.
        keepalive_fd: write end of the platform's keepalive pipe; the platform outlives the agent until the watchdog,
            too, has let go. It is by this pipe that the watchdog knows the agent's platform from another's.
        meanwhile: is called over and over until it is up; whatever it raises ends the start.

    Raises:
        Unsafe: it did not come up.
    """

    def __init__(self, config: Path, keepalive_fd: int, meanwhile: Callable[[], None] = lambda: None) -> None:
        read_end, self._pipe = os.pipe()
        command = ["recover", "--watch", read_end, "--keepalive", keepalive_fd, "--config", config]
        self._process = subprocess.Popen(
            own_module("agent", *command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            bufsize=0,  # or what is read ahead with the first line would be heard by nobody
            pass_fds=[read_end, keepalive_fd],
            start_new_session=True,
            env=own_environment(),
        )
        os.close(read_end)
        if self._process.stdout is None:
            raise Unsafe("the watchdog has no way to say that it watches")
        self._says = self._process.stdout
        self._listened_s = self._heard_s = time.monotonic()
        self._given_up_s: float | None = None
        try:
            if not self._comes_up(meanwhile):
                raise Unsafe("the watchdog did not come up; without it nothing may be broken")
        except BaseException:
            self.close()
            raise
        os.set_blocking(self._says.fileno(), False)

    def alive(self) -> bool:
        """Tells whether it still watches: whether its process is there, and was heard of lately.

        Waits for up to a second where it was not, once for each silence.
        """
        if self._process.poll() is not None:
            return False
        listened_s = self._listened_s
        if self._listen():
            self._heard_s = listened_s  # at the earliest: what lay in the pipe may be as old as that
        if time.monotonic() - self._heard_s <= _SILENT_S:
            return True
        if self._heard_s == self._given_up_s:
            return False
        select.select([self._says], [], [], _AT_ONCE_S)
        if self._listen():
            self._heard_s = time.monotonic()
            return True
        self._given_up_s = self._heard_s
        return False

    def close(self) -> None:
        """Lets go of it and waits until it has cleaned up and gone."""
        os.close(self._pipe)
        try:
            self._process.wait(_UP_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._says.close()

    def _comes_up(self, meanwhile: Callable[[], None]) -> bool:
        deadline_s = time.monotonic() + _UP_WITHIN_S
        while time.monotonic() < deadline_s:
            meanwhile()
            if select.select([self._says], [], [], _LOOK_EVERY_S)[0]:
                return self._says.readline() == WATCHING
        return False

    def _listen(self) -> bool:
        """Empties the pipe; tells whether anything was in it."""
        self._listened_s = time.monotonic()
        heard = False
        with suppress(BlockingIOError):
            while os.read(self._says.fileno(), _MOST_BYTES):
                heard = True
        return heard
