"""Log files of processes whose output is not ours, such as Ray's workers."""

from __future__ import annotations

import logging
from pathlib import Path


def log_to(path: Path) -> None:
    """Sends what the platform's own code logs in this process to a file, which other processes may share."""
    file = logging.FileHandler(path)
    file.setFormatter(logging.Formatter("%(asctime)s [%(process)d] %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger(__package__)
    logger.addHandler(file)
    logger.setLevel(logging.INFO)
