"""Waiting for what another process does: never for a time, always for an event, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def wait_until(what: Callable[[], Value], within_s: float = 10.0) -> Value:
    """Returns the first truthy value of `what`; fails when there was none in time."""
    deadline_s = time.monotonic() + within_s
    while not (value := what()):
        assert time.monotonic() < deadline_s, f"did not happen within {within_s} s"
        time.sleep(0.01)
    return value
