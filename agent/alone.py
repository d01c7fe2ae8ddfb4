"""One process at a time: a lock that the system lets go of when its holder dies, however it dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from actuators.errors import BackburnError


@contextmanager
def alone(lock: Path, complaint: Callable[[str], BackburnError]) -> Iterator[None]:
    """Holds a lock for as long as the block lasts.

    Args:
        lock: the file; made if missing, and left.
        complaint: makes the error of whoever comes second, given the pid of who came first.

    Raises:
        BackburnError: that one.
    """
    with lock.open("a+", encoding="ascii", errors="replace") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise complaint(file.read().strip()) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
