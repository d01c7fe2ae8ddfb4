"""The kill switch: one file that everybody can pull and only a person with a reason can release.

Unreadable means engaged, and so does missing. Engaging is always allowed; releasing needs a reason.
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from actuators.errors import BadInput


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
        """Stops everything. Never refused."""
        self._write(LeverState(True, reason, by, _now()))

    def release(self, reason: str, by: str) -> None:
        """Lets chaos begin again.

        Raises:
            BadInput: no reason was given.
        """
        if not reason.strip():
            raise BadInput("releasing the lever needs a reason")
        self._write(LeverState(False, reason, by, _now()))

    def exists(self) -> bool:
        """Tells whether anybody has ever moved this lever."""
        return self._path.exists()

    def _write(self, state: LeverState) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Whoever moves it has a draft of their own: the service's web threads pull it, too.
        draft = self._path.with_suffix(f".{os.getpid()}.{threading.get_native_id()}.draft")
        draft.write_text(json.dumps(asdict(state)), encoding="utf-8")
        draft.replace(self._path)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
