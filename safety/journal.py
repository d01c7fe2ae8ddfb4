r"""The write-ahead log of everything that was done to a cluster. It is the memory of the undo, and the audit.

Append-only. An injection's receipt is on disk (SQLite, WAL, `synchronous=FULL`: fsynced) before any harm is done, so a
fresh process finds every fault that could possibly be in force. Its states:

    intended -> applied -> verified -> reverting -> reverted -> clean
                                                            \-> leaked

`verified` is skipped when a fault never showed its symptom. `leaked` means that nobody could observe its absence; only
a later observation of cleanliness ends it.

What is not clean stands in a table of its own, kept by the database with every entry: what may be in force is known at
once, however long the journal. Old entries may be forgotten; those of a fault that is not clean never are.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from actuators.clock import Clock
from actuators.errors import BadInput, Unsafe
from actuators.fault import Injection

VERSION: Final = 2

INTENDED: Final = "intended"
APPLIED: Final = "applied"
VERIFIED: Final = "verified"
REVERTING: Final = "reverting"
REVERTED: Final = "reverted"
CLEAN: Final = "clean"
LEAKED: Final = "leaked"

_HEADER_BYTES = 512
"""The smallest page of a database."""

_ENTRIES = (
    """
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
    ) STRICT
    """,
    "CREATE INDEX entries_by_injection ON entries (injection, seq)",
)
"""The first version's whole schema."""

_STANDING = (
    """
    CREATE TABLE standing (
        injection TEXT PRIMARY KEY, seq INTEGER NOT NULL, state TEXT NOT NULL, receipt TEXT NOT NULL
    ) STRICT
    """,
    """
    CREATE TRIGGER stands AFTER INSERT ON entries WHEN NEW.injection IS NOT NULL AND NEW.event <> 'clean' BEGIN
        INSERT OR REPLACE INTO standing
        SELECT injection, seq, NEW.event, receipt FROM entries WHERE injection = NEW.injection AND event = 'intended';
    END
    """,
    """
    CREATE TRIGGER is_clean AFTER INSERT ON entries WHEN NEW.injection IS NOT NULL AND NEW.event = 'clean' BEGIN
        DELETE FROM standing WHERE injection = NEW.injection;
    END
    """,
)
"""What the second version adds."""

_STANDING_OF_OLD = """
INSERT INTO standing
SELECT first.injection, first.seq, last.event, first.receipt FROM entries AS first
JOIN entries AS last ON last.seq = (SELECT MAX(seq) FROM entries WHERE injection = first.injection)
WHERE first.event = 'intended' AND last.event <> 'clean'
"""

_FORGET = """
DELETE FROM entries WHERE at < :before AND seq <= (SELECT MAX(seq) FROM entries) - :keep AND (
    injection IS NULL OR (
        injection NOT IN (SELECT injection FROM standing)
        AND NOT EXISTS (SELECT 1 FROM entries AS of WHERE of.injection = entries.injection AND of.at >= :before)
    )
)
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
        checked: whether this process has opened it before, and need not look for damage again.

    Raises:
        Unsafe: the file was written by another version or cannot be read: what it holds open is unknown.
    """

    def __init__(self, path: Path, clock: Clock, by: str, patience_s: float = 5.0, *, checked: bool = False) -> None:
        self._clock = clock
        self._by = by
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            if path.exists() and 0 < path.stat().st_size < _HEADER_BYTES:
                raise sqlite3.DatabaseError("it is cut off")  # SQLite would take it for a new one
            self._db = sqlite3.connect(path, timeout=patience_s, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            if not checked:
                (said,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
                if said != "ok":
                    raise sqlite3.DatabaseError(said)
            self._require_version(path)
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            raise Unsafe(f"the journal {path} cannot be read ({error}); what it holds open is unknown") from error

    def _require_version(self, path: Path) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            is_new = version == 0 and not self._db.execute("SELECT 1 FROM sqlite_master").fetchone()
            if is_new or version == 1:
                for statement in (*(_ENTRIES if is_new else ()), *_STANDING, _STANDING_OF_OLD):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version={VERSION}")
                version = VERSION
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")
        if version != VERSION:
            self._db.close()
            raise Unsafe(
                f"the journal {path} has version {version}; this Backburn reads versions up to {VERSION}. "
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
        return [injection for injection, state in self._standing() if state != LEAKED]

    def leaked(self) -> list[Injection]:
        """Returns the injections whose absence nobody could observe, newest first."""
        return [injection for injection, state in self._standing() if state == LEAKED]

    def last_seq(self) -> int:
        """Returns the place of the newest entry; 0 if there is none."""
        (seq,) = self._db.execute("SELECT COALESCE(MAX(seq), 0) FROM entries").fetchone()
        return int(seq)

    def intended_under(self, token: int, after_seq: int) -> list[str]:
        """Returns the injections that were intended under a fencing token, oldest first.

        Args:
            token: of the lease.
            after_seq: from behind there on: a lease that was lost with its file counts from one again.

        Raises:
            Unsafe: a receipt cannot be read.
        """
        rows = self._db.execute(
            "SELECT injection, receipt FROM entries WHERE event = ? AND seq > ? ORDER BY seq", (INTENDED, after_seq)
        )
        try:
            return [injection for injection, receipt in rows if json.loads(receipt)["token"] == token]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise Unsafe(
                f"the journal holds what cannot be read ({error!r}); whose faults they were is unknown"
            ) from error

    def is_settled(self, injection: Injection) -> bool:
        """Tells whether an injection is clean and no act of it can still be on its way.

        Its agent had said that it was applied before anybody began to take it out: the act was over by then.
        """
        rows = self._db.execute("SELECT event FROM entries WHERE injection = ? ORDER BY seq", (injection.id,))
        events = [event for (event,) in rows]
        before = events[: events.index(REVERTING)] if REVERTING in events else events
        return APPLIED in before and events[-1] == CLEAN

    def entries(self, after_seq: int = 0) -> Iterator[Entry]:
        """Yields the journal in the order of writing, from behind `after_seq` on."""
        rows = self._db.execute(
            "SELECT seq, at, event, injection, by, reason FROM entries WHERE seq > ? ORDER BY seq", (after_seq,)
        )
        for row in rows:
            yield Entry(*row)

    def forget(self, before: datetime, keep: int) -> int:
        """Deletes old entries, but none of a fault that is not clean, and returns how many.

        Args:
            before: entries from then on stay; aware.
            keep: so many of the newest entries stay, whatever their age: a clock may jump.
        """
        at = before.astimezone(UTC).isoformat(timespec="milliseconds")
        return self._db.execute(_FORGET, {"before": at, "keep": keep}).rowcount

    def close(self) -> None:
        """Closes the database."""
        self._db.close()

    def _standing(self) -> list[tuple[Injection, str]]:
        """Returns what is not clean, newest first.

        Raises:
            Unsafe: it cannot be read.
            sqlite3.OperationalError: somebody else is in the way.
        """
        try:
            rows = self._db.execute("SELECT receipt, state FROM standing ORDER BY seq DESC").fetchall()
            return [(Injection.from_json(receipt), state) for receipt, state in rows]
        except sqlite3.OperationalError:
            raise
        except (sqlite3.DatabaseError, BadInput, ValueError, KeyError, TypeError, RecursionError) as error:
            raise Unsafe(f"the journal holds what cannot be read ({error!r}); what is open is unknown") from error

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
