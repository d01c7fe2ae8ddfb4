"""The handle of a simulated cluster: a JSON document that its sensing and its acting half both read and write.

In memory for training and most tests; in a file where a test kills the process that acts and looks at what is left.
"""

from __future__ import annotations

import copy
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeAlias

Document: TypeAlias = dict[str, Any]


class World(Protocol):
    """A JSON document with transactions."""

    @contextmanager
    def change(self) -> Iterator[Document]:
        """Yields the document for reading and changing; changes are there for others when the block ends."""
        ...


class MemoryWorld:
    """A world that lives and dies with its process."""

    def __init__(self, document: Document) -> None:
        self._document = copy.deepcopy(document)

    @contextmanager
    def change(self) -> Iterator[Document]:
        """Yields the document itself."""
        yield self._document


class FileWorld:
    """A world that survives its processes and is shared by several."""

    def __init__(self, path: Path, document: Document | None = None) -> None:
        self._path = path
        self._lock = path.with_suffix(".lock")
        if document is not None:
            self._write(document)

    @contextmanager
    def change(self) -> Iterator[Document]:
        """Yields the document under a lock, and replaces the file in one step."""
        with self._lock.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            document = json.loads(self._path.read_text(encoding="utf-8"))
            yield document
            self._write(document)

    def _write(self, document: Document) -> None:
        draft = self._path.with_suffix(f".{os.getpid()}.draft")
        draft.write_text(json.dumps(document), encoding="utf-8")
        draft.replace(self._path)
