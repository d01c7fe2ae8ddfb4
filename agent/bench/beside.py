"""What measured figures have to stand beside."""

from __future__ import annotations

import os
import platform
import shlex
import sys

import psutil


def machine_and_command() -> str:
    """Returns the machine, and the command that was given on it, in one line."""
    cores, memory = len(os.sched_getaffinity(0)), psutil.virtual_memory().total
    command = shlex.join(["python", *sys.orig_argv[1:]])
    return f"{cores} cores, {memory / 1e9:.0f} GB, Linux {platform.release()}: {command}"
