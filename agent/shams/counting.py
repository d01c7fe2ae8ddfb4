"""Counting alarms, and how sure one can be of their share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from scipy.stats import binomtest

from envs.scoring import UNIT_WINDOWS, Verdict

from ..settings import Settings
from .judging import Sham

_CONFIDENCE = 0.95
MOST = 2.0
"""Times the nominal share that the upper end of an interval may be."""


@dataclass(frozen=True, slots=True)
class Rate:
    """How many of some shams alarmed.

    Attributes:
        alarms: those that did.
        of: all that could have.
    """

    alarms: int
    of: int

    @property
    def interval(self) -> tuple[float, float]:
        """The Wilson interval of the share, as if no two shams shared a look."""
        if not self.of:
            return 0.0, 1.0
        low, high = binomtest(self.alarms, self.of).proportion_ci(_CONFIDENCE, method="wilson")
        return float(low), float(high)

    def keeps(self, nominal: float) -> bool:
        """Tells whether the upper end of the interval is at most twice what is promised."""
        return self.interval[1] <= MOST * nominal

    def to_json(self) -> dict[str, Any]:
        """Returns the rate as JSON."""
        return {"alarms": self.alarms, "of": self.of, "interval": list(self.interval)}

    def __str__(self) -> str:
        low, high = self.interval
        share = f"{self.alarms / self.of:.3f}" if self.of else "unknown"
        return f"{self.alarms}/{self.of} = {share} ({low:.3f} to {high:.3f})"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        what: what is counted.
        nominal: the share that is promised at most; None where nothing is.
        every: of the shams that begin at every window.
        apart: of those that share no look with each other.
    """

    what: str
    nominal: float | None
    every: Rate
    apart: Rate

    @property
    def kept(self) -> bool | None:
        """Whether the shams at every window keep what is promised; None where nothing is."""
        return None if self.nominal is None else self.every.keeps(self.nominal)

    def to_json(self) -> dict[str, Any]:
        """Returns the line as JSON."""
        return {
            "what": self.what,
            "nominal": self.nominal,
            "kept": self.kept,
            "every": self.every.to_json(),
            "apart": self.apart.to_json(),
        }


def counted(shams: Sequence[Sham], settings: Settings) -> list[Row]:
    """Returns how often each verdict and each family of series alarmed, of the shams of which anybody could tell.

    Args:
        shams: judged in one way, oldest first.
        settings: say what is nominal, and how long a sham is.
    """
    alpha = settings.scoring.alpha
    apart = apart_of(shams, settings.shape.quiet_s + UNIT_WINDOWS * settings.shape.window_s)

    def row(what: str, nominal: float | None, alarm: Callable[[Sham], bool | None]) -> Row:
        return Row(what, nominal, _rate(shams, alarm), _rate(apart, alarm))

    rows = [
        row("verdict weakness", alpha, partial(_came_to, verdict=Verdict.WEAKNESS)),
        row("verdict inconclusive", None, partial(_came_to, verdict=Verdict.INCONCLUSIVE)),
        row("verdict invalid", None, lambda sham: sham.verdict is Verdict.INVALID),
    ]
    names = shams[0].p if shams else ()
    rows += [row(f"p of {name}", alpha, partial(_significant, name=name, alpha=alpha)) for name in names]
    rows.append(row("a move shown anywhere", None, lambda sham: any(sham.moved.values()) if is_judged(sham) else None))
    return [found for found in rows if found.every.of]


def is_judged(sham: Sham) -> bool:
    """Tells whether enough was known of a sham for it to alarm, or not to."""
    return sham.verdict is not Verdict.INVALID


def _came_to(sham: Sham, verdict: Verdict) -> bool | None:
    return sham.verdict is verdict if is_judged(sham) else None


def _significant(sham: Sham, name: str, alpha: float) -> bool | None:
    return None if math.isnan(sham.p[name]) else sham.p[name] <= alpha


def _rate(shams: Sequence[Sham], alarm: Callable[[Sham], bool | None]) -> Rate:
    known = [found for found in map(alarm, shams) if found is not None]
    return Rate(sum(known), len(known))


def apart_of(shams: Sequence[Sham], unit_s: float) -> list[Sham]:
    """Returns shams that share no look with each other: the first one, and then always the next that fits."""
    found: list[Sham] = []
    for sham in shams:
        if not found or sham.start != found[-1].start or sham.injected_s - found[-1].injected_s >= unit_s:
            found.append(sham)
    return found
