"""Files that are whole or not there at all."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

_TAIL_BYTES = 8192


def write_atomically(path: Path, data: bytes) -> None:
    """Puts `data` at `path` so that every reader, and a crash at any moment, finds the old file or the new one.

    The new file is on disk before it takes the name, and only its owner may read it.
    """
    partial = path.with_name(f".{path.name}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    _sync_folder(path.parent)


def sha256(data: bytes) -> str:
    """Returns the SHA-256 of `data` as hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def tail(path: Path, lines: int = 5) -> str:
    """Returns the last lines of a log, empty when it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
