"""What the commands' options have in common."""

from __future__ import annotations

import os
import sys
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..settings import PACKAGED, Settings

Config = Annotated[Path, typer.Option("--config", help="Settings file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_WIDE = 180
DEFAULT_CONFIG = PACKAGED / "local.yaml"


class FailOn(StrEnum):
    """From which severity on a run fails."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    NEVER = "never"


class Device(StrEnum):
    """Where a policy learns."""

    CPU = "cpu"
    CUDA = "cuda"


class Algorithm(StrEnum):
    """How a policy learns."""

    POSTERIOR = "posterior"
    PPO = "ppo"


class ClusterKind(StrEnum):
    """Which sort of cluster."""

    LOCAL = "local"
    SIMULATED = "simulated"


def run_folder(settings: Settings, out: Path | None) -> Path:
    """Returns the folder that was asked for, or one that is named by the time."""
    return out or settings.runs_dir / f"{datetime.now():%Y-%m-%d-%H%M%S}-{settings.cluster.id}"


class Lasting(Console):
    """A console that ends nothing when its reader is gone, such as a `tee` that died: it falls silent.

    What is begun goes on, and leaves its records.
    """

    def on_broken_pipe(self) -> None:
        """Shows nobody anything from now on, and lets nothing else fail by it."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def wide_console() -> Console:
    """Returns a console for tables: as wide as the terminal, or as they are where they go to a file."""
    return Lasting(width=None if sys.stdout.isatty() else _WIDE)
