"""A steady rhythm of questions, whoever answers them."""

from __future__ import annotations

import threading
import time
from typing import Protocol

from .snapshot import Snapshot


class Source(Protocol):
    """Where snapshots come from: exporters that are asked directly, or a Prometheus that has asked them."""

    def round(self) -> Snapshot:
        """Asks once and returns what is known then; what does not answer is unknown, and never an error.

        A snapshot bears the time at which its values were measured, one without any value the time of the question.
        """
        ...

    def close(self) -> None:
        """Lets go of whatever the questions needed."""
        ...


class Poller:
    """Keeps asking in a thread of its own, at a steady rhythm, and hands every snapshot out once.

    Args:
        source: who asks.
        period_s: time between rounds, seconds.
    """

    def __init__(self, source: Source, period_s: float) -> None:
        self._source = source
        self._period_s = period_s
        self._news = threading.Condition()
        self._newest: Snapshot | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="poller", daemon=True)

    def start(self) -> None:
        """Begins to ask."""
        self._thread.start()

    def after(self, at_s: float, timeout_s: float) -> Snapshot | None:
        """Returns a snapshot newer than `at_s`, waiting for it; None when none came in time."""
        with self._news:
            self._news.wait_for(lambda: self._newest is not None and self._newest.at_s > at_s, timeout_s)
            return self._newest if self._newest is not None and self._newest.at_s > at_s else None

    def close(self) -> None:
        """Ends the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)
        self._source.close()

    def _poll(self) -> None:
        due = time.monotonic()
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            due = max(due + self._period_s, time.monotonic())
            snapshot = self._source.round()
            with self._news:
                self._newest = snapshot
                self._news.notify_all()
