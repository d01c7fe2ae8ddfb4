"""What measured figures have to stand beside, and how a measurement is asked for and ends."""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
from collections.abc import Callable

import psutil

from actuators.errors import BackburnError, BadInput, Unsafe


def machine_and_command() -> str:
    """Returns the machine, and the command that was given on it, in one line."""
    cores, memory = len(os.sched_getaffinity(0)), psutil.virtual_memory().total
    command = shlex.join(["python", *sys.orig_argv[1:]])
    return f"{cores} cores, {memory / 1e9:.0f} GB, Linux {platform.release()}: {command}"


def whole_from_1(text: str) -> int:
    """Reads an option's whole number, for argparse.

    Raises:
        argparse.ArgumentTypeError: it is none, or less than one.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; allowed is a whole number from 1")
    return int(text)


def in_one_line(main: Callable[[], None]) -> None:
    """Runs a measurement; what keeps it from coming to an end is one line and an exit code, as with `backburn`."""
    try:
        main()
    except BackburnError as error:
        print(" ".join(str(error).split()), file=sys.stderr)  # noqa: T201 (a command: its user reads it)
        sys.exit(2 if isinstance(error, BadInput) else 3 if isinstance(error, Unsafe) else 4)
