"""A card where there is none: see `tests/double/pynvml.py`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from unittest import mock
from uuid import uuid4

import psutil

from actuators.drivers.local import neighbour

DOUBLE = Path(__file__).with_name("double")
UUID = f"GPU-{uuid4()}"
"""Of this test run alone: who looks for neighbours on a card finds nobody else's."""
TOTAL = 2**30
"""Bytes: a process that has imported torch holds a fifth of it before it has taken anything, as on a real card."""


@dataclass
class Card:
    """The file that is a card."""

    path: Path
    uuid: str = UUID

    def change(self, **values: object) -> None:
        """Changes what the card's file says, in one step."""
        data = json.loads(self.path.read_text()) | values
        draft = self.path.with_suffix(".draft")
        draft.write_text(json.dumps(data))
        draft.replace(self.path)


@contextmanager
def card(folder: Path) -> Iterator[Card]:
    """Lets this process and all that it starts see one card, and no other NVML."""
    path = folder / "card.json"
    path.write_text(json.dumps({"uuid": UUID, "total": TOTAL, "others": {}, "broken": []}))
    paths = os.pathsep.join([str(DOUBLE), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {"BACKBURN_TEST_CARD": str(path), "PYTHONPATH": paths}
    before = sys.modules.pop("pynvml", None)
    with mock.patch.dict(os.environ, environment), mock.patch.object(sys, "path", [str(DOUBLE), *sys.path]):
        try:
            yield Card(path)
        finally:
            sys.modules.pop("pynvml", None)
            if before is not None:
                sys.modules["pynvml"] = before


def neighbours(card: str = UUID) -> list[list[str]]:
    """Returns pid, verb and share of every neighbour that lives on a card."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            command = process.cmdline()
            if neighbour.__file__ in command and card in command:
                found.append([str(process.pid), *command[-3:-1]])
    return found
