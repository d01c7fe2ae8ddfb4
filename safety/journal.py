r"""The write-ahead log of everything that was done to a cluster. It is the memory of the undo, and the audit.

Append-only. An injection's receipt is on disk (SQLite, WAL, `synchronous=FULL`: fsynced) before any harm is done, so a
fresh process finds every fault that could possibly be in force. Its states:

    intended -> applied -> verified -> reverting -> reverted -> clean
                                                            \-> leaked

`verified` is skipped when a fault never showed its symptom. `leaked` means that nobody could observe its absence; only
a later observation of cleanliness ends it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from actuators.clock import Clock
from actuators.errors import Unsafe
from actuators.fault import Injection

VERSION: Final = 1

INTENDED: Final = "intended"
APPLIED: Final = "applied"
VERIFIED: Final = "verified"
REVERTING: Final = "reverting"
REVERTED: Final = "reverted"
CLEAN: Final = "clean"
LEAKED: Final = "leaked"

_SCHEMA = """
CREATE TABLE entries (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at TEXT NOT NULL,
    boot_id TEXT NOT NULL,
    boottime_s REAL NOT NULL,
    event TEXT NOT NULL,
    injection TEXT,
    receipt TEXT,
    by TEXT NOT NULL,
    reason TEXT NOT NULL
) STRICT;
CREATE INDEX entries_by_injection ON entries (injection, seq);
"""

_LATEST = """
SELECT last.event, first.receipt FROM entries AS first
JOIN entries AS last ON last.seq = (SELECT MAX(seq) FROM entries WHERE injection = first.injection)
WHERE first.event = 'intended' ORDER BY first.seq DESC
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the journal.

    Attributes:
        seq: its place in the order of writing.
        at: wall-clock time, UTC, ISO 8601.
        event: an injection's new state, or what else happened (`refused`, `repair`, `quarantined` …).
        injection: the injection it is about, if any.
        by: who did it.
        reason: why.
    """

    seq: int
    at: str
    event: str
    injection: str | None
    by: str
    reason: str


class Journal:
    """The journal of one cluster.

    Args:
        path: the database file; it is created if missing.
        clock: stamps every entry.
        by: who writes, such as `agent 4711`.
        patience_s: how long to wait for another writer, seconds.

    Raises:
        Unsafe: the file was written by another version or cannot be read: what it holds open is unknown.
    """

    def __init__(self, path: Path, clock: Clock, by: str, patience_s: float = 5.0) -> None:
        self._clock = clock
        self._by = by
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(path, timeout=patience_s, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._require_version(path)
        except sqlite3.DatabaseError as error:
            raise Unsafe(f"the journal {path} cannot be read ({error}); what it holds open is unknown") from error

    def _require_version(self, path: Path) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version == 0 and not self._db.execute("SELECT 1 FROM sqlite_master").fetchone():
                for statement in _SCHEMA.split(";"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version={VERSION}")
                version = VERSION
        finally:
            self._db.execute("COMMIT")
        if version != VERSION:
            self._db.close()
            raise Unsafe(
                f"the journal {path} has version {version}; this Backburn reads version {VERSION}. "
                "Recover with the Backburn that wrote it, or move it away once nothing of it is in force"
            )

    def intend(self, injection: Injection) -> None:
        """Writes a receipt down; when this returns it survives a power cut."""
        self._append(INTENDED, injection.id, injection.to_json(), str(injection.fault))

    def mark(self, injection: Injection, state: str, reason: str = "") -> None:
        """Writes down that an injection has reached a state."""
        self._append(state, injection.id, None, reason)

    def note(self, event: str, reason: str) -> None:
        """Writes down anything else that a reader of the audit should know."""
        self._append(event, None, None, reason)

    def open_injections(self) -> list[Injection]:
        """Returns what may be in force, newest first; leaks are listed apart."""
        return [injection for injection, state in self._latest() if state not in (CLEAN, LEAKED)]

    def leaked(self) -> list[Injection]:
        """Returns the injections whose absence nobody could observe, newest first."""
        return [injection for injection, state in self._latest() if state == LEAKED]

    def entries(self, after_seq: int = 0) -> Iterator[Entry]:
        """Yields the journal in the order of writing, from behind `after_seq` on."""
        rows = self._db.execute(
            "SELECT seq, at, event, injection, by, reason FROM entries WHERE seq > ? ORDER BY seq", (after_seq,)
        )
        for row in rows:
            yield Entry(*row)

    def close(self) -> None:
        """Closes the database."""
        self._db.close()

    def _latest(self) -> list[tuple[Injection, str]]:
        return [(Injection.from_json(receipt), state) for state, receipt in self._db.execute(_LATEST)]

    def _append(self, event: str, injection_id: str | None, receipt: str | None, reason: str) -> None:
        now = self._clock.now()
        self._db.execute(
            "INSERT INTO entries (at, boot_id, boottime_s, event, injection, receipt, by, reason) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                datetime.now(UTC).isoformat(timespec="milliseconds"),
                now.boot_id,
                now.boottime_s,
                event,
                injection_id,
                receipt,
                self._by,
                reason,
            ),
        )
