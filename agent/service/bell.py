"""Waiting that anybody may end: a signal handler, another thread."""

from __future__ import annotations

import os
import select


class Bell:
    """Rings until it is heard. An eventfd: a lock that a signal handler takes may be held by whom it interrupted."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._is_up = True

    def ring(self, _: str = "") -> None:
        """Ends the wait that goes on, or else the next one; once taken down, it is not heard."""
        if self._is_up:
            os.eventfd_write(self._fd, 1)

    def wait(self, seconds: float) -> bool:
        """Waits until it rings, or for so long; tells whether it rang."""
        heard = bool(select.select([self._fd], [], [], max(0.0, seconds))[0])
        if heard:
            os.eventfd_read(self._fd)
        return heard

    def close(self) -> None:
        """Takes it down."""
        self._is_up = False
        os.close(self._fd)
