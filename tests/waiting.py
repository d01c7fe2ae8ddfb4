"""Waiting for what another process does: never for a time, always for an event, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")

LOOK_S = 0.25
"""What one look takes of a deadline, at most."""


def wait_until(what: Callable[[], Value], within_s: float = 10.0) -> Value:
    """Returns the first truthy value of `what`; fails when there was none in time.

    A machine that stands still for a second does so for whoever is waited for, too. That second must not use up the
    deadline: a look that takes long counts as one that does not.
    """
    left_s, looked_s = within_s, time.monotonic()
    while not (value := what()):
        assert left_s > 0.0, f"did not happen within {within_s} s"
        time.sleep(0.01)
        now_s = time.monotonic()
        left_s -= min(now_s - looked_s, LOOK_S)
        looked_s = now_s
    return value
