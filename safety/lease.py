"""One agent per cluster, and a way to tell that the one is no longer in control of itself.

The holder renews the lease in its main loop, so that a hung holder stops renewing. Whoever takes the lease next, or
fences a hung holder off, raises the fencing token; the late holder then finds its token outdated at the last check
before it acts. A dead holder is in nobody's way; of one in another container, where its pid says nothing, that is not
known before the lease has expired. Kept in SQLite for its transactions, not for durability: a lease does not survive a
reboot anyway.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from actuators.clock import Clock, Instant
from actuators.errors import Unsafe

_SCHEMA = """
CREATE TABLE IF NOT EXISTS lease (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    token INTEGER NOT NULL, holder TEXT NOT NULL, pid INTEGER NOT NULL, pid_started INTEGER NOT NULL,
    boot_id TEXT NOT NULL, boottime_s REAL NOT NULL
) STRICT
"""
_NOBODY = """
INSERT OR IGNORE INTO lease (only, token, holder, pid, pid_started, boot_id, boottime_s) VALUES (1, 0, '', 0, 0, '', 0)
"""
_NAMESPACE = "ALTER TABLE lease ADD COLUMN pid_namespace INTEGER NOT NULL DEFAULT 0"
"""What a file of an earlier Backburn lacks."""


class LeaseLost(Unsafe):
    """Somebody else has taken over, or fenced us off."""


class Lease:
    """The lease of one cluster.

    Args:
        path: the file that holds it.
        ttl_s: how long it lasts without renewal, seconds.
        clock: what it is read against.
        patience_s: how long to wait for another writer, seconds.
    """

    def __init__(self, path: Path, ttl_s: float, clock: Clock, patience_s: float = 5.0) -> None:
        self.ttl_s = ttl_s
        self._path = path
        self._clock = clock
        self._token: int | None = None
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(path, timeout=patience_s, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            if not self._is_whole():
                with self._transaction():  # of those that start at once one makes it, and who dies leaves nothing
                    self._db.execute(_SCHEMA)
                    self._db.execute(_NOBODY)
                    if not self._has_namespace():
                        self._db.execute(_NAMESPACE)
        except sqlite3.DatabaseError as error:
            raise Unsafe(f"the lease {path} cannot be read ({error}); another agent may be at work") from error

    @property
    def token(self) -> int:
        """The fencing token under which we hold the lease.

        Raises:
            LeaseLost: we do not hold it.
        """
        if self._token is None:
            raise LeaseLost(f"the lease {self._path} is not held by this process")
        return self._token

    def acquire(self, holder: str) -> int:
        """Takes the lease and returns its new fencing token.

        Raises:
            Unsafe: a living agent holds it, or one in another container of which nobody can tell, until it expires.
        """
        with self._transaction():
            other, token = self.at_work(), self._row()[0]
            if other is not None:
                raise Unsafe(f"{other} is at work on this cluster; one agent at a time ({self._path})")
            self._write(token + 1, holder)
        self._token = token + 1
        return self._token

    def renew(self) -> None:
        """Says that the holder is alive and in control of itself.

        Raises:
            LeaseLost: the token is no longer ours.
        """
        now = self._clock.now()
        renewed = self._db.execute(
            "UPDATE lease SET boot_id = ?, boottime_s = ? WHERE token = ?", (now.boot_id, now.boottime_s, self.token)
        ).rowcount
        if not renewed:
            self._token = None
            raise LeaseLost(f"the lease {self._path} was taken over; this agent has no say any more")

    def fence(self, by: str) -> None:
        """Takes the say away from whoever holds the lease."""
        with self._transaction():
            self._write(self._row()[0] + 1, by)

    def at_work(self) -> str | None:
        """Returns who is at work on the cluster, None if nobody is; of one in another container, until it expires."""
        _, holder, pid, started, *_ = self._row()
        is_alive = bool(holder) and not self.expired() and (self._is_elsewhere() or _started(pid) == started)
        return f"{holder} (pid {pid})" if is_alive else None

    def expired(self) -> bool:
        """Tells whether the holder has not renewed for longer than the time to live."""
        _, _, _, _, boot_id, boottime_s = self._row()
        return Instant(boot_id, boottime_s).after(self.ttl_s).reached(self._clock.now())

    def release(self) -> None:
        """Gives the lease back, if it is still ours."""
        self._db.execute("UPDATE lease SET holder = '', pid = 0 WHERE token = ?", (self._token,))
        self._token = None

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def _row(self) -> tuple[int, str, int, int, str, float]:
        row: tuple[int, str, int, int, str, float] = self._db.execute(
            "SELECT token, holder, pid, pid_started, boot_id, boottime_s FROM lease"
        ).fetchone()
        return row

    def _is_whole(self) -> bool:
        return self._has_namespace() and self._db.execute("SELECT 1 FROM lease").fetchone() is not None

    def _has_namespace(self) -> bool:
        return "pid_namespace" in [name for _, name, *_ in self._db.execute("PRAGMA table_info(lease)")]

    def _is_elsewhere(self) -> bool:
        """Tells whether the holder's pid may mean another process here: containers of one host share a boot."""
        namespace: int = self._db.execute("SELECT pid_namespace FROM lease").fetchone()[0]
        return namespace == 0 or namespace != _pid_namespace()

    def _write(self, token: int, holder: str) -> None:
        now = self._clock.now()
        pid = os.getpid()
        self._db.execute(
            "UPDATE lease SET token = ?, holder = ?, pid = ?, pid_started = ?, boot_id = ?, boottime_s = ?, "
            "pid_namespace = ?",
            (token, holder, pid, _started(pid), now.boot_id, now.boottime_s, _pid_namespace()),
        )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


def _started(pid: int) -> int:
    """Returns a process's start time in clock ticks since boot, 0 when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[19])


def _pid_namespace() -> int:
    """Returns the number of the PID namespace, 0 where nobody can tell."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0
