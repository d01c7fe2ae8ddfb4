"""What a run shows of itself while it goes on."""

from __future__ import annotations

import io

from rich.console import Console

from agent.progress import Display


def test_how_long_a_phase_takes_is_told_once_it_is_known_what_time_it_is():
    said = io.StringIO()
    display = Display(Console(file=said), 10.0)
    display.entered("calibrate", None, 90_300.0)
    display.polled(90_000.0)
    display.entered("calibrate", None, 90_300.0)
    assert "calibrate, at most 300 s more" in said.getvalue()
    assert "90300" not in said.getvalue()
