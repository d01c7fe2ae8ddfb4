"""How a module of ours becomes a process: from where we are ourselves, never from the present folder.

`python -m` looks into the present folder first. Ours have generic names, and whoever starts a run in a repository that
has an `agent` or `envs` of its own would get that for a watchdog.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

_ROOT = str(Path(__file__).resolve().parents[1])


def own_module(name: str, *arguments: object) -> list[str]:
    """Returns the command that runs a module of ours; it takes `own_environment` to find it in a checkout, too."""
    return [sys.executable, "-P", "-m", name, *map(str, arguments)]


def own_environment() -> dict[str, str]:
    """Returns the environment of such a process: this one's, in which our modules come first."""
    # Without empty ones, which mean the present folder.
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path not in {"", _ROOT}]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([_ROOT, *others])}
