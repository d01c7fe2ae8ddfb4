"""What the commands' options have in common."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ..settings import PACKAGED, Settings

Config = Annotated[Path, typer.Option("--config", help="Settings file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
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
