"""SIGTERM and Ctrl-C: not an exception in the middle of something, but a wish, granted at the next safe moment."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Interruption:
    """Remembers that somebody asked for the end, and passes it on."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self._told: Callable[[str], None] | None = None

    def asked(self) -> bool:
        """Tells whether the end was asked for."""
        return self.reason is not None

    def tell(self, who: Callable[[str], None]) -> None:
        """Has a callable told when the end is asked for, or now, if it was already."""
        self._told = who
        if self.reason is not None:
            who(self.reason)

    def ask(self, reason: str) -> None:
        """Asks for the end; the first reason counts."""
        if self.reason is None:
            self.reason = reason
            if self._told is not None:
                self._told(reason)

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Takes SIGTERM and SIGINT for as long as the block lasts."""

        def asked(number: int, frame: FrameType | None) -> None:
            self.ask(signal.Signals(number).name)

        before = {number: signal.signal(number, asked) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
