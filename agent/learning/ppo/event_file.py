"""What training logs, as TensorBoard reads it."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

from stable_baselines3.common.logger import KVWriter
from tensorboardX import SummaryWriter


class EventFile(KVWriter):
    """Writes event files by tensorboardX; SB3's own writer asks for all of TensorBoard.

    Args:
        folder: where they go.
    """

    def __init__(self, folder: str) -> None:
        self._writer = SummaryWriter(folder)

    def write(self, key_values: dict[str, Any], key_excluded: Mapping[str, tuple[str, ...]], step: int = 0) -> None:
        """Writes numbers."""
        for name, value in key_values.items():
            if isinstance(value, Real):
                self._writer.add_scalar(name, float(value), step)

    def close(self) -> None:
        """Ends the file."""
        self._writer.close()
