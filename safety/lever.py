"""The kill switch: one file that everybody can pull and only a person with a reason can release.

Unreadable means engaged, and so does missing. Engaging is always allowed, on a full disk too; releasing needs a reason.
A lever that is engaged survives a power cut; a release that does not leaves it engaged. Of an engagement and a release
at the same moment the engagement wins, whatever the processes that they come from, unless who releases hangs in the
very middle of it for longer than two seconds.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from actuators.errors import BadInput
from actuators.files import sync_folder

_PATIENCE_S = 2.0
_LOOK_EVERY_S = 0.005


@dataclass(frozen=True, slots=True)
class LeverState:
    """Whether chaos is stopped, and who said so.

    Attributes:
        engaged: True stops what runs and refuses what would start.
        reason: why, in words.
        by: who moved the lever.
        at: when, UTC, ISO 8601.
    """

    engaged: bool
    reason: str
    by: str = ""
    at: str = ""


class Lever:
    """The lever of one cluster.

    Args:
        path: the file that holds its state.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> LeverState:
        """Returns the lever's state; whatever cannot be read counts as engaged."""
        try:
            data = json.loads(self._path.read_text(encoding="utf-8"))
            if not isinstance(data["engaged"], bool):
                raise TypeError(f"engaged is {data['engaged']!r}")
            return LeverState(**data)
        except FileNotFoundError:
            return LeverState(True, f"the lever {self._path} does not exist; `backburn resume` creates it")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            return LeverState(True, f"the lever {self._path} cannot be read: {error}")

    def engage(self, reason: str, by: str) -> None:
        """Stops everything. Never refused; where there is no room for the reason, without it.

        Raises:
            OSError: the file can be neither replaced nor emptied, and says what it said before.
        """
        state = LeverState(True, reason, by, _now())
        self._engage(state)  # at once: no halt waits for anybody
        with ExitStack() as held:
            with suppress(OSError):  # somebody hangs while releasing
                held.enter_context(self._held())
            if not self.read().engaged:  # whoever released it meanwhile did not know
                self._engage(state)
        self._sync()

    def release(self, reason: str, by: str, only_if: LeverState | None = None) -> bool:
        """Lets chaos begin again.

        Args:
            reason: why, in words.
            by: who says so.
            only_if: what was read before; if somebody has moved the lever since, it stays as it is.

        Returns:
            Whether it was released.

        Raises:
            BadInput: no reason was given.
            OSError: the file cannot be written; it says what it said before.
        """
        if not reason.strip():
            raise BadInput("releasing the lever needs a reason")
        with self._held():
            if only_if is not None and self.read() != only_if:
                return False
            self._write(LeverState(False, reason, by, _now()))
        self._sync()
        return True

    def exists(self) -> bool:
        """Tells whether anybody has ever moved this lever."""
        return self._path.exists()

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Keeps all others from releasing meanwhile; the system lets go of the folder when this process dies.

        Raises:
            OSError: somebody holds it for too long.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            until_s = time.monotonic() + _PATIENCE_S
            while True:
                try:
                    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > until_s:
                        raise
                    time.sleep(_LOOK_EVERY_S)  # flock waits for ever or not at all
            yield
        finally:
            os.close(folder)

    def _engage(self, state: LeverState) -> None:
        try:
            self._write(state)
        except OSError:
            self._spoil(state)

    def _write(self, state: LeverState) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Whoever moves it has a draft of their own: the service's web threads pull it, too.
        draft = self._path.with_suffix(f".{os.getpid()}.{threading.get_native_id()}.draft")
        try:
            draft.write_bytes(_text(state))
            draft.replace(self._path)
        except OSError:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            raise

    def _spoil(self, state: LeverState) -> None:
        """Engages without a draft: an empty file needs no room, and counts as engaged."""
        with self._path.open("wb", buffering=0) as file, suppress(OSError):
            file.write(_text(state))  # there may be room now; a part of it cannot be read, and counts as engaged

    def _sync(self) -> None:
        """Makes the lever's state survive a power cut, where the disk can.

        After the rename and not before: no halt waits for a disk. What a cut in between leaves is either the state of
        before, which nobody was told had changed, or a file that cannot be read.
        """
        with suppress(OSError):
            with self._path.open("rb") as file:
                os.fsync(file.fileno())
            sync_folder(self._path.parent)


def _text(state: LeverState) -> bytes:
    return json.dumps(asdict(state)).encode()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
