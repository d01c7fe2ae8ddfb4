"""What outlives runs of one cluster: journal, lever, lease."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from actuators.clock import BootClock, Clock
from actuators.errors import BadInput, Unsafe
from safety.journal import Journal
from safety.lease import Lease
from safety.lever import Lever

from ..settings import Settings


@dataclass(frozen=True, slots=True)
class State:
    """What outlives runs of one cluster: journal, lever, lease."""

    journal: Journal
    lever: Lever
    lease: Lease
    folder: Path

    def close(self) -> None:
        """Closes the databases."""
        self.journal.close()
        self.lease.close()


def open_state(settings: Settings, clock: Clock, by: str, patience_s: float = 5.0) -> State:
    """Opens a cluster's state, creating it where it is missing.

    Args:
        settings: say where it is.
        clock: stamps what is written.
        by: who writes.
        patience_s: how long to wait for another writer, seconds.

    Raises:
        BadInput: the folder cannot be made or written.
        Unsafe: a journal or lease that this Backburn cannot read.
    """
    folder = settings.cluster_state_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "writable").touch()
        (folder / "writable").unlink(missing_ok=True)  # another process may try the same now
    except OSError as error:
        raise BadInput(f"cannot write to the state folder {folder}: {error.strerror}") from error
    return State(
        journal=Journal(folder / "journal.db", clock, by, patience_s),
        lever=Lever(folder / "lever.json"),
        lease=Lease(folder / "lease", settings.safety.lease_ttl_s, clock, patience_s),
        folder=folder,
    )


@contextmanager
def journal_of(settings: Settings) -> Iterator[Journal]:
    """Opens a cluster's journal for a command.

    Raises:
        BadInput: its folder cannot be made.
        Unsafe: it cannot be read.
    """
    folder = settings.cluster_state_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot make the state folder {folder}: {error.strerror}") from error
    journal = Journal(folder / "journal.db", BootClock(), person())
    try:
        yield journal
    finally:
        journal.close()


def person() -> str:
    """Returns who gives a command, for the audit."""
    return os.environ.get("USER", "unknown person")


def lever_of(settings: Settings) -> Lever:
    """Returns a cluster's kill switch."""
    return Lever(settings.cluster_state_dir / "lever.json")


def require_free(lever: Lever, because: str) -> None:
    """Makes a lever, released, where there is none yet.

    Args:
        lever: of a cluster that is ours alone.
        because: why nobody has to release it first.

    Raises:
        Unsafe: it is engaged.
    """
    state = lever.read()
    if not lever.exists():
        lever.release(because, "backburn", only_if=state)
    state = lever.read()
    if state.engaged:
        raise Unsafe(f"the lever is engaged ({state.reason}); `backburn resume --reason …` releases it")
